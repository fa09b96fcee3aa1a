"""The vocabulary of scores: what a row of the long score table may say."""

OK, PRED_EMPTY = "ok", "pred_empty"
MISSING_OUTPUT, CRASHED, TIMEOUT, GEOMETRY_MISMATCH = "missing_output", "crashed", "timeout", "geometry_mismatch"
REF_EMPTY_FP, BOTH_EMPTY = "ref_empty_fp", "both_empty"

#: No mask exists that could be measured.
UNUSABLE = (MISSING_OUTPUT, CRASHED, TIMEOUT, GEOMETRY_MISMATCH)
#: Failed where the reference has the structure: scored with the penalty.
FAILED = (PRED_EMPTY, *UNUSABLE)
#: The reference does not have the structure.
REFERENCE_ABSENT = (REF_EMPTY_FP, BOTH_EMPTY)
STATUSES = (OK, *FAILED, *REFERENCE_ABSENT)

#: Scopes: every slice of the volume (primary), or the slices of the reference that had a prompt (secondary).
WHOLE_VOLUME, PROMPTED_SLICES = "volume", "prompted-slices"

#: Measured on the pair of masks, defined only where the reference has the structure.
OVERLAP_METRICS = ("dsc", "hd95_mm", "nsd", "assd_mm")
VOLUME_METRICS = ("volume_ml", "reference_volume_ml", "volume_difference_ml", "tp_mm3")
METRICS = OVERLAP_METRICS + VOLUME_METRICS
#: Metrics that may be primary, and whether more is better.
HIGHER_IS_BETTER = {"dsc": True, "hd95_mm": False, "nsd": True, "assd_mm": False}
