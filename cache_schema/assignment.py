"""Assignment of least cost: every row gets a column of its own.

Dimension letters: R row, C column.
"""

from __future__ import annotations

import numpy as np


def assign(cost: np.ndarray) -> np.ndarray:
    """Return the column (R) of every row, by which the sum of costs (R, C) is least.

    Rows are added one by one. Each takes the cheapest chain of exchanges that ends at a free column, found by
    Dijkstra's algorithm on costs that prices of rows and columns keep from being negative (Jonker and
    Volgenant 1987).

    Raises:
        ValueError: There are fewer columns than rows, or a cost is not finite.
    """
    rows, columns = cost.shape
    if rows > columns:
        raise ValueError(f"{rows} rows cannot have a column each: there are {columns}")
    if not np.isfinite(cost).all():
        raise ValueError("a cost is not finite")
    cost = cost.astype(np.float64)
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)  # -1 where the column is free
    for new in range(rows):
        distance, from_column = np.full(columns, np.inf), np.full(columns, -1)
        reached = np.zeros(columns, dtype=bool)
        row, column, way = new, -1, 0.0
        while True:
            through = way + cost[row] - row_price[row] - column_price
            shorter = ~reached & (through < distance)
            distance[shorter], from_column[shorter] = through[shorter], column
            column = int(np.where(reached, np.inf, distance).argmin())
            way = distance[column]
            if row_of[column] < 0:
                break
            reached[column], row = True, row_of[column]
        row_price[new] += way
        row_price[row_of[reached]] += way - distance[reached]
        column_price[reached] -= way - distance[reached]
        while column >= 0:
            before = from_column[column]
            row_of[column] = new if before < 0 else row_of[before]
            column = before
    taken = np.flatnonzero(row_of >= 0)
    found = np.empty(rows, dtype=np.int64)
    found[row_of[taken]] = taken
    return found
