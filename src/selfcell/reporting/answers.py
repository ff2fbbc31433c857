"""What a comparison's page says of its questions, as a table."""

from collections.abc import Iterable

import pandas as pd

from selfcell.benchmark.statistics import Comparison
from selfcell.reporting.names import method_name


def answer_table(answers: Iterable[tuple[str, list[Comparison]]]) -> pd.DataFrame:
    """Give a row for each question and label budget; its columns are called as on the page of a benchmark."""
    return pd.DataFrame(
        {
            "question": question,
            "learned from": comparison.budget,
            "method": method_name(comparison.method),
            "against": method_name(comparison.against),
            "difference": comparison.difference.mean,
            "low": comparison.difference.low,
            "high": comparison.difference.high,
            "p": comparison.difference.p_value,
            "pairs": len(comparison.difference.by_seed),
            "pairs that agree": comparison.n_agree,
            "visible from": comparison.detectable,
            "verdict": comparison.finding,
        }
        for question, comparisons in answers
        for comparison in comparisons
    )
