"""The works that the methods text can cite, each with what is certain of it; as text and as BibTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gtvbench.reports.text.latex import escaped


@dataclass(frozen=True)
class Reference:
    """A work: `authors` as 'Family, Given', "others" last where there are more; `where` is journal, book or series."""

    key: str
    authors: tuple[str, ...]
    title: str
    where: str
    year: int
    volume: str = ""
    number: str = ""
    pages: str = ""
    doi: str = ""
    eprint: str = ""
    kind: str = "article"

    @property
    def formatted(self) -> str:
        """As a list of references has it: authors, title, where, year, identifier."""
        names = [_short(name) for name in self.authors if name != "others"]
        who = ", ".join(names) + (" et al." if "others" in self.authors else ".")
        issue = f"({self.number})" if self.number else ""
        place = f" {self.volume}{issue}" if self.volume else ""
        pages = f":{self.pages}" if self.pages and place else f", pages {self.pages}" if self.pages else ""
        link, stop = f" doi:{self.doi}" if self.doi else "", "" if self.title.endswith("?") else "."
        return f"{who} {self.title}{stop} {self.where}{place}{pages}, {self.year}.{link}"

    @property
    def bibtex(self) -> str:
        """As an entry of a .bib file; the title keeps its capitals."""
        fields = {
            "author": " and ".join(escaped(name) for name in self.authors),
            "title": f"{{{escaped(self.title)}}}",
            {"article": "journal", "inproceedings": "booktitle", "misc": "howpublished"}[self.kind]: escaped(
                self.where
            ),
            "year": str(self.year),
            "volume": self.volume,
            "number": self.number,
            "pages": self.pages.replace("\u2013", "--"),
            "doi": self.doi,
            "eprint": self.eprint,
            "archiveprefix": "arXiv" if self.eprint else "",
        }
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
        return f"@{self.kind}{{{self.key},\n" + ",\n".join(lines) + "\n}\n"


def _short(name: str) -> str:
    """Family name and initials."""
    family, _, given = name.partition(", ")
    return f"{family} {''.join(part[0] for part in re.split(r'[ -]+', given) if part)}"


_ALL = (
    Reference(
        "ren2024", ("Ren, Jintao", "Rasmussen, Mathis", "Nijkamp, Jasper", "Eriksen, Jesper Grau", "Korreman, Stine"),
        "Segment anything model for head and neck tumor segmentation with CT, PET and MRI multi-modality images",
        "arXiv:2402.17454", 2024, eprint="2402.17454", kind="misc",
    ),
    Reference(
        "ma2024medsam", ("Ma, Jun", "He, Yuting", "Li, Feifei", "Han, Lin", "You, Chenyu", "Wang, Bo"),
        "Segment anything in medical images", "Nature Communications", 2024, volume="15", pages="654",
        doi="10.1038/s41467-024-44824-z",
    ),
    Reference(
        "ma2024laptop", ("Ma, Jun", "Li, Feifei", "Kim, Sumin", "others"),
        "Efficient MedSAMs: Segment Anything in Medical Images on Laptop", "arXiv:2412.16085", 2024,
        eprint="2412.16085", kind="misc",
    ),
    Reference(
        "kirillov2023", ("Kirillov, Alexander", "Mintun, Eric", "Ravi, Nikhila", "others"), "Segment Anything",
        "Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)", 2023, kind="inproceedings",
    ),
    Reference(
        "wu2022",
        ("Wu, Kan", "Zhang, Jinnian", "Peng, Houwen", "Liu, Mengchen", "Xiao, Bin", "Fu, Jianlong", "Yuan, Lu"),
        "TinyViT: Fast Pretraining Distillation for Small Vision Transformers",
        "European Conference on Computer Vision (ECCV)", 2022, kind="inproceedings",
    ),
    Reference(
        "isensee2021",
        ("Isensee, Fabian", "Jaeger, Paul F.", "Kohl, Simon A. A.", "Petersen, Jens", "Maier-Hein, Klaus H."),
        "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation", "Nature Methods",
        2021, volume="18", number="2", pages="203\u2013211", doi="10.1038/s41592-020-01008-z",
    ),
    Reference(
        "heinrich2013",
        ("Heinrich, Mattias Paul", "Jenkinson, Mark", "Papie\u017c, Bart\u0142omiej W.", "Brady, Michael",
         "Schnabel, Julia A."),
        "Towards Realtime Multimodal Fusion for Image-Guided Interventions Using Self-similarities",
        "Medical Image Computing and Computer-Assisted Intervention (MICCAI), LNCS", 2013, volume="8149",
        pages="187\u2013194", doi="10.1007/978-3-642-40811-3_24", kind="inproceedings",
    ),
    Reference(
        "mattes2003",
        ("Mattes, David", "Haynor, David R.", "Vesselle, Hubert", "Lewellen, Thomas K.", "Eubank, William"),
        "PET-CT image registration in the chest using free-form deformations", "IEEE Transactions on Medical Imaging",
        2003, volume="22", number="1", pages="120\u2013128", doi="10.1109/TMI.2003.809072",
    ),
    Reference(
        "rueckert1999",
        ("Rueckert, Daniel", "Sonoda, Luke I.", "Hayes, Carmel", "Hill, Derek L. G.", "Leach, Martin O.",
         "Hawkes, David J."),
        "Nonrigid registration using free-form deformations: application to breast MR images",
        "IEEE Transactions on Medical Imaging", 1999, volume="18", number="8", pages="712\u2013721",
        doi="10.1109/42.796284",
    ),
    Reference(
        "nikolov2021", ("Nikolov, Stanislav", "Blackwell, Sam", "Zverovitch, Alexei", "others"),
        "Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy: Deep Learning Algorithm "
        "Development and Validation Study", "Journal of Medical Internet Research", 2021, volume="23", number="7",
        pages="e26151", doi="10.2196/26151",
    ),
    Reference(
        "maierhein2024", ("Maier-Hein, Lena", "Reinke, Annika", "Godau, Patrick", "others"),
        "Metrics reloaded: recommendations for image analysis validation", "Nature Methods", 2024, volume="21",
        number="2", pages="195\u2013212", doi="10.1038/s41592-023-02151-z",
    ),
    Reference(
        "wiesenfarth2021",
        ("Wiesenfarth, Manuel", "Reinke, Annika", "Landman, Bennett A.", "Eisenmann, Matthias",
         "Aguilera Saiz, Laura", "Cardoso, M. Jorge", "Maier-Hein, Lena", "Kopp-Schneider, Annette"),
        "Methods and open-source toolkit for analyzing and visualizing challenge results", "Scientific Reports", 2021,
        volume="11", pages="2369", doi="10.1038/s41598-021-82017-6",
    ),
    Reference(
        "wilcoxon1945", ("Wilcoxon, Frank",), "Individual comparisons by ranking methods", "Biometrics Bulletin", 1945,
        volume="1", number="6", pages="80\u201383", doi="10.2307/3001968",
    ),
    Reference(
        "holm1979", ("Holm, Sture",), "A simple sequentially rejective multiple test procedure",
        "Scandinavian Journal of Statistics", 1979, volume="6", number="2", pages="65\u201370",
    ),
    Reference(
        "efron1987", ("Efron, Bradley",), "Better bootstrap confidence intervals",
        "Journal of the American Statistical Association", 1987, volume="82", number="397", pages="171\u2013185",
        doi="10.1080/01621459.1987.10478410",
    ),
    Reference(
        "hodges1963", ("Hodges, Joseph L.", "Lehmann, Erich L."), "Estimates of location based on rank tests",
        "The Annals of Mathematical Statistics", 1963, volume="34", number="2", pages="598\u2013611",
        doi="10.1214/aoms/1177704172",
    ),
    Reference(
        "schuirmann1987", ("Schuirmann, Donald J.",),
        "A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of "
        "average bioavailability", "Journal of Pharmacokinetics and Biopharmaceutics", 1987, volume="15", number="6",
        pages="657\u2013680", doi="10.1007/BF01068419",
    ),
    Reference(
        "demsar2006", ("Demšar, Janez",), "Statistical comparisons of classifiers over multiple data sets",
        "Journal of Machine Learning Research", 2006, volume="7", pages="1\u201330",
    ),
    Reference(
        "benavoli2016", ("Benavoli, Alessio", "Corani, Giorgio", "Mangili, Francesca"),
        "Should we really use post-hoc tests based on mean-ranks?", "Journal of Machine Learning Research", 2016,
        volume="17", number="5", pages="1\u201310",
    ),
    Reference(
        "bland1986", ("Bland, J. Martin", "Altman, Douglas G."),
        "Statistical methods for assessing agreement between two methods of clinical measurement", "The Lancet", 1986,
        volume="327", number="8476", pages="307\u2013310", doi="10.1016/S0140-6736(86)90837-8",
    ),
    Reference(
        "mcgraw1996", ("McGraw, Kenneth O.", "Wong, S. P."),
        "Forming inferences about some intraclass correlation coefficients", "Psychological Methods", 1996, volume="1",
        number="1", pages="30\u201346",
    ),
    Reference(
        "friedman1937", ("Friedman, Milton",),
        "The use of ranks to avoid the assumption of normality implicit in the analysis of variance",
        "Journal of the American Statistical Association", 1937, volume="32", number="200", pages="675\u2013701",
        doi="10.1080/01621459.1937.10503522",
    ),
    Reference(
        "paszke2019", ("Paszke, Adam", "Gross, Sam", "Massa, Francisco", "others"),
        "PyTorch: An Imperative Style, High-Performance Deep Learning Library",
        "Advances in Neural Information Processing Systems", 2019, volume="32", kind="inproceedings",
    ),
    Reference(
        "virtanen2020", ("Virtanen, Pauli", "Gommers, Ralf", "Oliphant, Travis E.", "others"),
        "SciPy 1.0: fundamental algorithms for scientific computing in Python", "Nature Methods", 2020, volume="17",
        number="3", pages="261\u2013272", doi="10.1038/s41592-019-0686-2",
    ),
    Reference(
        "seabold2010", ("Seabold, Skipper", "Perktold, Josef"),
        "Statsmodels: Econometric and Statistical Modeling with Python",
        "Proceedings of the 9th Python in Science Conference", 2010, pages="92\u201396", kind="inproceedings",
    ),
    Reference(
        "lowekamp2013", ("Lowekamp, Bradley C.", "Chen, David T.", "Ibáñez, Luis", "Blezek, Daniel"),
        "The Design of SimpleITK", "Frontiers in Neuroinformatics", 2013, volume="7", pages="45",
        doi="10.3389/fninf.2013.00045",
    ),
)  # fmt: skip

#: Every work by its key.
REFERENCES = {reference.key: reference for reference in _ALL}
