"""Sources of cases: where patients come from and how they reach one grid."""
