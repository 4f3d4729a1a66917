"""Triton kernels that form one tile of every sample's weight gradient and reduce it before the next; needs triton.

A program owns one tile (ROWS, COLUMNS) of the weight and walks over samples. The tiles of the weights that
gradients are reduced against are read once, ahead of that walk. The loops over samples and over positions are one
loop, so that the loads of the next sample are under way while the last one is reduced. No two programs write to one
place, and each sums in an order that depends on the tile alone: equal input gives equal bits.

Left and right are (batch, positions, rows) and (batch, positions, columns) with any strides; `*_sample`, `*_position`
and `*_row` or `*_column` are these strides in elements. Offsets that can pass 2³¹ are 64 bits wide.
"""

import triton
import triton.language as tl

# Numbers that change from batch to batch: not worth a compilation each.
_VARYING = ["batch", "positions", "samples_each"]


@triton.jit(do_not_specialize=_VARYING)
def confidence_terms_kernel(
    left,
    right,
    linear_weight,  # (rows, columns), contiguous, as is quadratic_weight
    quadratic_weight,
    linear,  # (batch, tiles) float32, out: ⟨V, G_s⟩ within the tile
    quadratic,  # (batch, tiles) float32, out: Σ F G_s² within the tile
    batch,
    positions,
    rows,
    columns,
    left_sample,
    left_position,
    left_row,
    right_sample,
    right_position,
    right_column,
    samples_each,  # samples that a program walks over; programs of other samples are along the grid's second axis
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    BAND: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    tile = tl.program_id(0)
    first = tl.program_id(1) * samples_each
    row, column = _tile_start(tile, rows, columns, ROWS, COLUMNS, BAND)
    cells, inside = _tile_cells(row, column, rows, columns, ROWS, COLUMNS)
    v = tl.load(linear_weight + row.to(tl.int64) * columns + cells, mask=inside, other=0.0)
    f = tl.load(quadratic_weight + row.to(tl.int64) * columns + cells, mask=inside, other=0.0)
    steps = tl.cdiv(positions, POSITIONS)
    gradient = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(tl.minimum(samples_each, batch - first) * steps):
        sample = first + step // steps
        gradient = _plus_products(
            gradient,
            left + sample.to(tl.int64) * left_sample + row.to(tl.int64) * left_row,
            right + sample.to(tl.int64) * right_sample + column.to(tl.int64) * right_column,
            (step % steps) * POSITIONS,
            positions,
            rows - row,
            columns - column,
            left_position,
            left_row,
            right_position,
            right_column,
            ROWS,
            COLUMNS,
            POSITIONS,
            PRECISION,
            WIDEN,
        )
        if step % steps == steps - 1:
            out = sample * tl.num_programs(0) + tile
            tl.store(linear + out, tl.sum(gradient * v.to(tl.float32)))
            tl.store(quadratic + out, tl.sum(gradient * gradient * f.to(tl.float32)))
            gradient = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)


@triton.jit(do_not_specialize=_VARYING[:2])
def add_squares_kernel(
    left,
    right,
    weights,  # (batch,) float32: w
    totals,  # (rows, columns) float32, contiguous, in and out: + Σ_s w_s G_s²
    squares,  # (batch, tiles) float32, out: w_s ‖G_s‖² within the tile
    batch,
    positions,
    rows,
    columns,
    left_sample,
    left_position,
    left_row,
    right_sample,
    right_position,
    right_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    BAND: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    tile = tl.program_id(0)
    row, column = _tile_start(tile, rows, columns, ROWS, COLUMNS, BAND)
    cells, inside = _tile_cells(row, column, rows, columns, ROWS, COLUMNS)
    place = totals + row.to(tl.int64) * columns + cells
    total = tl.load(place, mask=inside, other=0.0)
    steps = tl.cdiv(positions, POSITIONS)
    gradient = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(batch * steps):
        sample = step // steps
        gradient = _plus_products(
            gradient,
            left + sample.to(tl.int64) * left_sample + row.to(tl.int64) * left_row,
            right + sample.to(tl.int64) * right_sample + column.to(tl.int64) * right_column,
            (step % steps) * POSITIONS,
            positions,
            rows - row,
            columns - column,
            left_position,
            left_row,
            right_position,
            right_column,
            ROWS,
            COLUMNS,
            POSITIONS,
            PRECISION,
            WIDEN,
        )
        if step % steps == steps - 1:
            square = gradient * gradient * tl.load(weights + sample)
            total += square
            tl.store(squares + sample * tl.num_programs(0) + tile, tl.sum(square))
            gradient = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    tl.store(place, total, mask=inside)


@triton.jit
def _tile_start(tile, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BAND: tl.constexpr):
    """First row and column of a tile: tiles that run at the same time form a block BAND high, which share operands."""
    across = tl.cdiv(columns, COLUMNS)
    first = tile // (BAND * across) * BAND
    height = tl.minimum(tl.cdiv(rows, ROWS) - first, BAND)
    within = tile % (BAND * across)
    return (first + within % height) * ROWS, within // height * COLUMNS


@triton.jit
def _tile_cells(row, column, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets of a tile's elements from the beginning of its first row, and which of them exist."""
    down, across = tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    inside = (row + down < rows)[:, None] & (across < columns)[None, :]
    return down[:, None] * columns + across[None, :], inside


@triton.jit
def _plus_products(
    gradient,
    left,
    right,
    start,
    positions,
    rows,
    columns,
    left_position,
    left_row,
    right_position,
    right_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The gradient tile plus Σ_t left[t] right[t]ᵀ over POSITIONS positions from `start` on.

    left and right point at one sample, at the first of the `rows` and `columns` that remain from the tile on. WIDEN:
    multiply in float32, for Triton's interpreter, which takes the bits of a bfloat16 for an integer
    (https://github.com/triton-lang/triton/issues/11584).
    """
    down, across, ahead = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, POSITIONS)
    left += start.to(tl.int64) * left_position
    right += start.to(tl.int64) * right_position
    exists = start + ahead < positions
    a = tl.load(
        left + down[:, None] * left_row + ahead[None, :] * left_position,
        mask=(down < rows)[:, None] & exists[None, :],
        other=0.0,
    )
    b = tl.load(
        right + ahead[:, None] * right_position + across[None, :] * right_column,
        mask=exists[:, None] & (across < columns)[None, :],
        other=0.0,
    )
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, gradient, input_precision=PRECISION)
