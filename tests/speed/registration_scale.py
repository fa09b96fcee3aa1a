"""Registration of one patient of real size: seconds by method and peak memory, each in a process of its own (Linux).

    python tests/speed/registration_scale.py [SLICES [SIZE]]

A phantom of 512 x 512 x 150 voxels (.98 x .98 x 3 mm); its T1w on the same grid, and cut to 256 x 256 x 100 voxels as
an MR of part of the body is, both moved by 5 degrees and 8 mm about each axis. Not part of the test suite.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.nifti import to_image
from gtvbench.datasets.phantom.source import Phantom, PhantomOptions

CODE = """
import resource, sys
from pathlib import Path
from gtvbench.bench.nifti import read_volume
from gtvbench.datasets.registration import RegistrationOptions, register
folder, moving, by, method = Path(sys.argv[1]), *sys.argv[2:]
ct, mr = read_volume(folder / "CT.nii"), read_volume(folder / moving)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
found = register(ct, mr, RegistrationOptions(by=by, method=method), fixed_is_ct=True, case="P", file=folder / moving)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
print(f"{found.seconds:6.1f} s   peak {peak:.2f} GiB (images alone {before:.2f})   kept: {', '.join(found.stages)}")
"""


def main() -> None:
    """Print a row an image and method."""
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 512
    options = PhantomOptions(patients=1, shape=(slices, size, size), spacing=(3.0, 500 / size, 500 / size))
    source = Phantom(options, Path(), structures_from({"GTV-T": 1, "GTV-N": 2}), 0)
    case = source.read(source.entries()[0])
    motion = sitk.Euler3DTransform()
    motion.SetCenter(tuple(float(v) for v in case.grid.world(np.asarray(case.grid.shape) / 2)))
    motion.SetRotation(*np.deg2rad([5.0, -5.0, 5.0]))
    motion.SetTranslation((8.0, -8.0, 8.0))
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(to_image(case.images["CT"], case.grid), f"{folder}/CT.nii")
        whole = to_image(case.images["T1w"], case.grid)
        part = sitk.RegionOfInterest(
            whole, [size // 2, size // 2, slices * 2 // 3], [size // 4, size // 4, slices // 6]
        )
        for name, image in (("whole.nii", whole), ("part.nii", part)):
            image.SetOrigin(motion.TransformPoint(image.GetOrigin()))
            turned = np.asarray(motion.GetMatrix()).reshape(3, 3) @ np.asarray(image.GetDirection()).reshape(3, 3)
            image.SetDirection(tuple(turned.ravel()))
            sitk.WriteImage(image, f"{folder}/{name}")
            for by in ("structure", "mutual-information"):
                for method in ("rigid", "rigid+bspline"):
                    command = [sys.executable, "-c", CODE, folder, name, by, method]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    print(f"{name:10} {by:19} {method:14} {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
