"""Files of each kind -> numbered items in standard units, with complaints about what is broken. Needs no torch."""

from sfumato.data.arrays import Arrays, open_array
from sfumato.data.dataset import (
    ArrayDataset,
    Buckets,
    Dataset,
    Items,
    Part,
    batch_indices,
    bucket_indices,
    split,
)
from sfumato.data.errors import DataError, shown
from sfumato.data.picture import Complaint, Picture, decode, fit, stretch
from sfumato.data.pictures import Scan, check_budget, gather, scan
from sfumato.data.statistics import Measured, Statistics, measure

__all__ = [
    "ArrayDataset",
    "Arrays",
    "Buckets",
    "Complaint",
    "DataError",
    "Dataset",
    "Items",
    "Measured",
    "Part",
    "Picture",
    "Scan",
    "Statistics",
    "batch_indices",
    "bucket_indices",
    "check_budget",
    "decode",
    "fit",
    "gather",
    "measure",
    "open_array",
    "scan",
    "shown",
    "split",
    "stretch",
]
