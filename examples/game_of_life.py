"""Conway's Game of Life on actors: each owns a band of the board and meets only its neighbours.

A band needs the edge rows of the bands above and below it. Those are results of calls, passed on
as references: actors hand them to each other, and this program never sees them. The calls of
many generations are in flight at once; what depends on what is all that orders them.
"""

from __future__ import annotations

from collections.abc import Iterable

import skate as ray

BANDS = 4
ROWS = 6  # of each band
SIZE = BANDS * ROWS  # the board is a square, and wraps around at its edges
GENERATIONS = 4 * SIZE  # a glider moves by one cell in 4 generations: once around the board
GLIDER = {(0, 1), (1, 2), (2, 0), (2, 1), (2, 2)}

Cells = set[tuple[int, int]]
Row = list[int]


@ray.remote
class Band:
    """Some rows of the board: 1 is a live cell, 0 a dead one."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @ray.method(num_returns=2)
    def edges(self) -> tuple[Row, Row]:
        """Return the first and the last row."""
        return self.rows[0], self.rows[-1]

    def step(self, above: Row, below: Row) -> None:
        """Go on by one generation, given the rows just outside this band."""
        framed = [above, *self.rows, below]
        self.rows = [[alive(framed[at : at + 3], column) for column in range(SIZE)] for at in range(len(self.rows))]

    def board(self) -> list[Row]:
        return self.rows


def alive(three_rows: list[Row], column: int) -> int:
    """Say whether the cell in the middle row lives on, or comes to life."""
    columns = (column - 1, column, (column + 1) % SIZE)
    around = sum(row[at] for row in three_rows for at in columns)
    middle = three_rows[1][column]
    return int(around == 3 or (around == 4 and middle == 1))


def band_of(cells: Cells, first: int) -> list[Row]:
    return [[int((row, at) in cells) for at in range(SIZE)] for row in range(first, first + ROWS)]


def live_cells(rows: Iterable[Row]) -> Cells:
    return {(at, column) for at, row in enumerate(rows) for column, cell in enumerate(row) if cell}


def main() -> None:
    ray.init()
    bands = [Band.options(num_cpus=0).remote(band_of(GLIDER, n * ROWS)) for n in range(BANDS)]
    for _ in range(GENERATIONS):
        edges = [band.edges.remote() for band in bands]
        for at, band in enumerate(bands):
            band.step.remote(edges[at - 1][1], edges[(at + 1) % BANDS][0])

    boards = ray.get([band.board.remote() for band in bands])
    cells = live_cells(row for board in boards for row in board)
    assert cells == GLIDER, cells
    for row in boards[0][:3]:
        print("".join(" #"[cell] for cell in row[:8]))
    print(f"game_of_life: the glider went once around the board in {GENERATIONS} generations")
    ray.shutdown()


if __name__ == "__main__":
    main()
