/* Per-sample weight gradients, formed a tile at a time in registers and reduced there.
 *
 * G_s = sum over t of left[s, t] right[s, t]^T, (rows, columns). A tile of it is accumulated over t as in any matrix
 * product, reduced against the same tile of the weights, and dropped: no part of G_s reaches memory.
 *
 * Every thread owns a range of row panels (ROWS rows each). It packs a block of them for all samples, then walks over
 * the column panels (up to VECTORS vectors wide), the samples, and the panels of the block. So a tile of the weights
 * stays in the first-level cache for all samples, and a panel of `right` for all panels of the block. Positions at
 * which one factor is zero throughout (padding, tokens that the loss does not reach) are left out.
 *
 * Sums over a tile are float32, everything beyond is double. The order of summation depends on the shapes alone: not
 * on the number of threads, nor on the other samples.
 */
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
static int thread_count(void) { return omp_get_num_threads(); }
static int thread_number(void) { return omp_get_thread_num(); }
#else
static int thread_count(void) { return 1; }
static int thread_number(void) { return 0; }
#endif

#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 4
#elif defined(__AVX__)
#define LANES 8
#define VECTORS 2
#else
#define LANES 4
#define VECTORS 2
#endif
#define ROWS 6
#define BLOCK 8
#define WIDTH (LANES * VECTORS)
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

typedef float vector __attribute__((vector_size(LANES * 4)));
typedef float unaligned_vector __attribute__((vector_size(LANES * 4), aligned(4)));

typedef float half __attribute__((vector_size(LANES * 2)));
typedef double doubles __attribute__((vector_size(LANES * 4), aligned(8)));
#define SUMS (LANES / 2)

typedef struct {
    int64_t samples, positions, rows, columns;
    const float *left, *right; /* (samples, positions, rows) and (samples, positions, columns), last stride 1 */
    int64_t left_sample, left_position, right_sample, right_position; /* strides in elements */
} Factors;

/* The positions of each sample that count: sample s has those from starts[s] to starts[s + 1]. */
typedef struct {
    int64_t *starts;
    int64_t *positions;
    int64_t *ascending; /* 0, 1, ..., as many as there are positions in a sample */
} Active;

/* Tile of a matrix with `stride` elements a row; in its last rows and columns a copy, padded with zeros. */
typedef struct {
    const float *at;
    int64_t stride;
    float padded[ROWS * WIDTH];
} Tile;

static inline vector load(const float *from) { return *(const unaligned_vector *)from; }
static inline void store(float *to, vector value) { *(unaligned_vector *)to = value; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Add the lanes, two and two, to LANES / 2 doubles. */
static inline void add_lanes(double *sums, vector value) {
    half low, high;
    memcpy(&low, &value, sizeof low);
    memcpy(&high, (const char *)&value + sizeof low, sizeof high);
    *(doubles *)sums += __builtin_convertvector(low, doubles) + __builtin_convertvector(high, doubles);
}

/* The right factor of one sample: position k is `stride` * index[k] elements behind `at`. */
typedef struct {
    const float *at;
    const int64_t *index;
    int64_t stride, count;
} Right;

/* A tile of G_s from a packed panel of the left factor, (count, ROWS); `used` is a constant wherever this is expanded,
 * so that the sums are registers. */
static inline __attribute__((always_inline)) void form_tile(const int used, const float *restrict left, Right right,
                                                            vector g[ROWS][VECTORS]) {
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < used; v++) g[r][v] = (vector){0};
    for (int64_t k = 0; k < right.count; k++, left += ROWS) {
        const float *restrict row = right.at + right.index[k] * right.stride;
        vector b[VECTORS];
        UNROLL for (int v = 0; v < used; v++) b[v] = load(row + v * LANES);
        UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < used; v++) g[r][v] += left[r] * b[v];
    }
}

static inline __attribute__((always_inline)) void reduce_terms(
    const int used, const float *left, Right right, const Tile *v_tile, const Tile *f_tile, double *linear,
    double *quadratic, double *norm) {
    vector g[ROWS][VECTORS], l[VECTORS], q[VECTORS];
    form_tile(used, left, right, g);
    UNROLL for (int v = 0; v < used; v++) l[v] = q[v] = (vector){0};
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < used; v++) {
        l[v] += g[r][v] * load(v_tile->at + r * v_tile->stride + v * LANES);
        q[v] += g[r][v] * g[r][v] * load(f_tile->at + r * f_tile->stride + v * LANES);
    }
    UNROLL for (int v = 1; v < used; v++) {
        l[0] += l[v];
        q[0] += q[v];
    }
    add_lanes(linear, l[0]);
    add_lanes(quadratic, q[0]);
    if (norm != NULL) {
        UNROLL for (int v = 0; v < used; v++) l[v] = (vector){0};
        UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < used; v++) l[v] += g[r][v] * g[r][v];
        UNROLL for (int v = 1; v < used; v++) l[0] += l[v];
        add_lanes(norm, l[0]);
    }
}

static inline __attribute__((always_inline)) void reduce_squares(
    const int used, const float *left, Right right, float weight, float *totals, int64_t stride, double *squares) {
    vector g[ROWS][VECTORS], q[VECTORS];
    form_tile(used, left, right, g);
    UNROLL for (int v = 0; v < used; v++) q[v] = (vector){0};
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < used; v++) {
        const vector square = weight * (g[r][v] * g[r][v]);
        float *at = totals + r * stride + v * LANES;
        store(at, load(at) + square);
        q[v] += square;
    }
    UNROLL for (int v = 1; v < used; v++) q[0] += q[v];
    add_lanes(squares, q[0]);
}

static int is_zero(const float *from, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!(from[i] == 0)) return 0; /* NaN counts */
    return 1;
}

/* Positions ahead of which memory is asked for: a row's first element is far from the last one's. */
#define AHEAD 16

static void find_active(const Factors *f, Active *active, int64_t threads) {
    int64_t *counts = active->starts + 1;
#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < f->samples; s++) {
        const float *left = f->left + s * f->left_sample, *right = f->right + s * f->right_sample;
        int64_t found = 0, *positions = active->positions + s * f->positions;
        for (int64_t t = 0; t < f->positions; t++, left += f->left_position, right += f->right_position) {
            if (t + AHEAD < f->positions) {
                __builtin_prefetch(left + AHEAD * f->left_position);
                __builtin_prefetch(right + AHEAD * f->right_position);
            }
            if (!is_zero(left, f->rows) && !is_zero(right, f->columns)) positions[found++] = t;
        }
        counts[s] = found;
    }
    active->starts[0] = 0;
    for (int64_t s = 0; s < f->samples; s++) {
        const int64_t start = active->starts[s], found = counts[s];
        memmove(active->positions + start, active->positions + s * f->positions, found * sizeof(int64_t));
        active->starts[s + 1] = start + found;
    }
    for (int64_t t = 0; t < f->positions; t++) active->ascending[t] = t;
}

static inline int64_t vectors_of(int64_t width) { return (width + LANES - 1) / LANES; }

static void take_tile(Tile *tile, const float *matrix, const Factors *f, int64_t row, int64_t column) {
    const int64_t rows = least(ROWS, f->rows - row), width = least(WIDTH, f->columns - column);
    if (rows == ROWS && width % LANES == 0) {
        tile->at = matrix + row * f->columns + column;
        tile->stride = f->columns;
        return;
    }
    memset(tile->padded, 0, sizeof tile->padded);
    for (int64_t r = 0; r < rows; r++)
        memcpy(tile->padded + r * WIDTH, matrix + (row + r) * f->columns + column, width * sizeof(float));
    tile->at = tile->padded;
    tile->stride = WIDTH;
}

static void put_tile(const Tile *tile, float *matrix, const Factors *f, int64_t row, int64_t column) {
    const int64_t rows = least(ROWS, f->rows - row), width = least(WIDTH, f->columns - column);
    if (tile->at != tile->padded) return;
    for (int64_t r = 0; r < rows; r++)
        memcpy(matrix + (row + r) * f->columns + column, tile->padded + r * WIDTH, width * sizeof(float));
}

/* What becomes of the tiles: sums against V and F, or squares added to totals. */
typedef struct {
    const float *linear_weight, *quadratic_weight;
    const float *sample_weight;
    float *totals;
    /* (row panels, samples, SUMS): linear and quadratic sums, and squared norms or none; or squares. */
    double *first, *second, *third;
} Reduction;

/* Row panels of the left factor, panel after panel, each with all samples after one another: (count, ROWS). */
static void pack_left(const Factors *f, const Active *active, int64_t panel, int64_t panels, float *packed) {
    const int64_t first = panel * ROWS, size = active->starts[f->samples] * ROWS;
    const int64_t whole = least(panels, (f->rows - first) / ROWS), rest = f->rows - first - whole * ROWS;
    for (int64_t s = 0; s < f->samples; s++)
        for (int64_t k = active->starts[s]; k < active->starts[s + 1]; k++) {
            const float *from = f->left + s * f->left_sample + active->positions[k] * f->left_position + first;
            float *to = packed + k * ROWS;
            for (int64_t p = 0; p < whole; p++) memcpy(to + p * size, from + p * ROWS, ROWS * sizeof(float));
            if (whole < panels)
                for (int r = 0; r < ROWS; r++) to[whole * size + r] = r < rest ? from[whole * ROWS + r] : 0;
        }
}

/* The last columns of the right factor, all samples after one another, padded with zeros to whole vectors. */
static void pack_right(const Factors *f, const Active *active, int64_t column, int64_t padded, float *packed) {
    const int64_t width = f->columns - column;
    for (int64_t s = 0; s < f->samples; s++)
        for (int64_t k = active->starts[s]; k < active->starts[s + 1]; k++, packed += padded) {
            memcpy(packed, f->right + s * f->right_sample + active->positions[k] * f->right_position + column,
                   width * sizeof(float));
            memset(packed + width, 0, (padded - width) * sizeof(float));
        }
}

/* The tiles of some row panels; `left` and `rest` are memory for packed factors. */
static void reduce_block(const Factors *f, const Active *active, const Reduction *reduction, int64_t panel,
                         int64_t panels, float *left, float *rest) {
    const int64_t count = active->starts[f->samples];
    Tile v_tile[BLOCK], f_tile[BLOCK], total[BLOCK];
    pack_left(f, active, panel, panels, left);
    for (int64_t column = 0; column < f->columns; column += WIDTH) {
        const int64_t width = least(WIDTH, f->columns - column), used = vectors_of(width);
        const int packed = width % LANES != 0;
        if (packed) pack_right(f, active, column, used * LANES, rest);
        for (int64_t p = 0; p < panels; p++) {
            const int64_t row = (panel + p) * ROWS;
            if (reduction->totals != NULL) {
                take_tile(&total[p], reduction->totals, f, row, column);
            } else {
                take_tile(&v_tile[p], reduction->linear_weight, f, row, column);
                take_tile(&f_tile[p], reduction->quadratic_weight, f, row, column);
            }
        }
        for (int64_t s = 0; s < f->samples; s++) {
            const int64_t start = active->starts[s], positions = active->starts[s + 1] - start;
            if (positions == 0) continue;
            const Right b = packed ? (Right){rest + start * used * LANES, active->ascending, used * LANES, positions}
                                   : (Right){f->right + s * f->right_sample + column, active->positions + start,
                                             f->right_position, positions};
            for (int64_t p = 0; p < panels; p++) {
                const float *a = left + (p * count + start) * ROWS;
                double *first = reduction->first + ((panel + p) * f->samples + s) * SUMS;
                if (reduction->totals != NULL) {
                    const float weight = reduction->sample_weight[s];
                    float *at = (float *)total[p].at;
                    const int64_t stride = total[p].stride;
                    switch (used) {
                    case 1: reduce_squares(1, a, b, weight, at, stride, first); break;
                    case 2: reduce_squares(2, a, b, weight, at, stride, first); break;
#if VECTORS == 4
                    case 3: reduce_squares(3, a, b, weight, at, stride, first); break;
                    case 4: reduce_squares(4, a, b, weight, at, stride, first); break;
#endif
                    }
                } else {
                    double *second = first + (reduction->second - reduction->first);
                    double *third = reduction->third == NULL ? NULL : first + (reduction->third - reduction->first);
                    switch (used) {
                    case 1: reduce_terms(1, a, b, &v_tile[p], &f_tile[p], first, second, third); break;
                    case 2: reduce_terms(2, a, b, &v_tile[p], &f_tile[p], first, second, third); break;
#if VECTORS == 4
                    case 3: reduce_terms(3, a, b, &v_tile[p], &f_tile[p], first, second, third); break;
                    case 4: reduce_terms(4, a, b, &v_tile[p], &f_tile[p], first, second, third); break;
#endif
                    }
                }
            }
        }
        if (reduction->totals != NULL)
            for (int64_t p = 0; p < panels; p++) put_tile(&total[p], reduction->totals, f, (panel + p) * ROWS, column);
    }
}

static int64_t row_panels_of(const Factors *f) { return (f->rows + ROWS - 1) / ROWS; }
static int64_t sums_of(const Factors *f) { return row_panels_of(f) * f->samples * SUMS; }
static int64_t left_of(const Factors *f) { return f->samples * f->positions * BLOCK * ROWS; }
static int64_t panels_of(const Factors *f) { return left_of(f) + f->samples * f->positions * WIDTH; }

/* Bytes that a call needs to work in with that many threads. Memory kept by the caller from call to call is mapped
 * already, which new memory is not. */
int64_t graceful_scratch(const Factors *f, int64_t threads) {
    return 3 * sums_of(f) * sizeof(double) + ((f->samples + 1) * (f->positions + 1)) * sizeof(int64_t) +
           threads * panels_of(f) * sizeof(float);
}

static void reduce_all(const Factors *f, const Reduction *reduction, char *scratch, int64_t most_threads) {
    const int64_t row_panels = row_panels_of(f);
    int64_t *starts = (int64_t *)scratch, *positions = starts + f->samples + 1;
    Active active = {starts, positions, positions + f->samples * f->positions};
    float *panels = (float *)(active.ascending + f->positions);
    find_active(f, &active, most_threads);
#pragma omp parallel num_threads(most_threads)
    {
        const int64_t threads = thread_count(), thread = thread_number();
        const int64_t end = row_panels * (thread + 1) / threads;
        float *left = panels + thread * panels_of(f), *rest = left + left_of(f);
        for (int64_t panel = row_panels * thread / threads; panel < end; panel += BLOCK)
            reduce_block(f, &active, reduction, panel, least(BLOCK, end - panel), left, rest);
    }
}

static void add_panels(const double *by_panel, int64_t panels, int64_t samples, double *totals) {
    for (int64_t s = 0; s < samples; s++) {
        double sum = 0;
        for (int64_t p = 0; p < panels; p++)
            for (int64_t i = 0; i < SUMS; i++) sum += by_panel[(p * samples + s) * SUMS + i];
        totals[s] = sum;
    }
}

/* linear[s] = sum of V G_s, quadratic[s] = sum of F G_s^2 and, unless null, norm[s] = sum of G_s^2; V and F are
 * (rows, columns), contiguous. */
void graceful_terms(const Factors *f, const float *v, const float *fisher, double *linear, double *quadratic,
                    double *norm, void *scratch, int64_t threads) {
    const int64_t panels = row_panels_of(f), size = sums_of(f);
    double *sums = scratch;
    const Reduction reduction = {v, fisher, NULL, NULL, sums, sums + size, norm == NULL ? NULL : sums + 2 * size};
    memset(sums, 0, 3 * size * sizeof(double));
    reduce_all(f, &reduction, (char *)(sums + 3 * size), threads);
    add_panels(reduction.first, panels, f->samples, linear);
    add_panels(reduction.second, panels, f->samples, quadratic);
    if (norm != NULL) add_panels(reduction.third, panels, f->samples, norm);
}

/* totals += sum over s of weight[s] G_s^2, (rows, columns) contiguous; squares[s] = weight[s] * sum of G_s^2. */
void graceful_squares(const Factors *f, const float *weight, float *totals, double *squares, void *scratch,
                      int64_t threads) {
    double *sums = scratch;
    const Reduction reduction = {NULL, NULL, weight, totals, sums, NULL, NULL};
    memset(sums, 0, sums_of(f) * sizeof(double));
    reduce_all(f, &reduction, (char *)(sums + sums_of(f)), threads);
    add_panels(sums, row_panels_of(f), f->samples, squares);
}
