/* What a decoder layer does to packed rows beside its products with frozen weights (see student/layer.py).
 *
 * Rows of tokens stand one behind the other. Activations are `real`: bf16 (with -DBF16) or fp32; adapters, their
 * gradients and all sums are fp32. Every number is summed by one thread in one order, so the result does not depend on
 * how many threads there are.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16, RANKS = 16, HIGH = 12, TILE = 8, CHUNK = 64, AHEAD = 12 };

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

#define inlined static inline __attribute__((always_inline))

inlined vec pick(ints where, vec a, vec b) { return (vec)((where & (ints)a) | (~where & (ints)b)); }

#ifdef BF16
typedef uint16_t real;
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

inlined vec load(const real *p)
{
#ifdef __AVX512F__ /* compilers make two halves of it */
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)p)), 16);
#else
    return (vec)(__builtin_convertvector(*(const halves *)p, words) << 16);
#endif
}

inlined void store(real *p, vec v)
{
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i_u *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    words bits = (words)v;
    words even = bits + 0x7fff + ((bits >> 16) & 1); /* to the nearest, ties to even */
    words kept = (words)pick(v != v, (vec)(bits | 0x400000), (vec)even);
    *(halves *)p = __builtin_convertvector(kept >> 16, halves);
#endif
}
#else
typedef float real;

inlined vec load(const real *p) { return *(const floats *)p; }
inlined void store(real *p, vec v) { *(floats *)p = v; }
#endif

inlined vec loadf(const float *p) { return *(const floats *)p; }
inlined void storef(float *p, vec v) { *(floats *)p = v; }

/* The first n of the lanes; the others are nought, or stay as they are. */
inlined vec load_n(const real *p, long n)
{
    if (n >= LANES) return load(p);
    real some[LANES] = {0};
    memcpy(some, p, n * sizeof(real));
    return load(some);
}

inlined void store_n(real *p, vec v, long n)
{
    if (n >= LANES) { store(p, v); return; }
    real some[LANES];
    store(some, v);
    memcpy(p, some, n * sizeof(real));
}

inlined vec loadf_n(const float *p, long n)
{
    if (n >= LANES) return loadf(p);
    float some[LANES] = {0};
    memcpy(some, p, n * sizeof(float));
    return loadf(some);
}

inlined void storef_n(float *p, vec v, long n)
{
    if (n >= LANES) storef(p, v);
    else memcpy(p, &v, n * sizeof(float));
}

inlined vec rounded(vec v)
{
    real some[LANES];
    store(some, v);
    return load(some);
}

inlined float sum(vec v)
{
    float out = 0;
    for (int i = 0; i < LANES; i++) out += v[i];
    return out;
}

inlined long least(long a, long b) { return a < b ? a : b; }
inlined long whole(long n) { return (n + LANES - 1) / LANES * LANES; }

/* e^x to some two units in the last place: 2^n times a polynomial (Moshier's Cephes). */
inlined vec exponential(vec x)
{
    const vec nought = {0};
    vec low = nought - 87.0f, high = nought + 88.0f, in = x;
    x = pick(x > high, high, x);
    vec shifted = x * 1.44269504f + 12582912.0f; /* the nearest whole number stands in the low bits */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vec out = (vec)((ints)p + ((ints)shifted << 23));
    return pick(in < low, nought, pick(in != in, in, out)); /* nought, for arithmetic on the tiniest numbers is slow */
}

/* ---- RMS norm (Zhang and Sennrich 2019) ---- */

void norm_forward(
    const real *x, const real *weight, float eps, long tokens, long width, real *out, float *scale, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long t = 0; t < tokens; t++) {
        const real *row = x + t * width;
        vec squares = {0};
        for (long i = 0; i < width; i += LANES) {
            vec v = load_n(row + i, width - i);
            squares += v * v;
        }
        scale[t] = 1.0f / sqrtf(sum(squares) / width + eps);
        for (long i = 0; i < width; i += LANES) {
            vec unit = rounded(load_n(row + i, width - i) * scale[t]);
            store_n(out + t * width + i, unit * load_n(weight + i, width - i), width - i);
        }
    }
}

/* The gradient of the norm's input, and of the residual that goes beside it. */
void norm_backward(
    const real *grad, const real *x, const float *scale, const real *weight, const real *beside, long tokens, long width,
    real *out, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long t = 0; t < tokens; t++) {
        long at = t * width;
        vec dot = {0};
        for (long i = 0; i < width; i += LANES) {
            vec unit = load_n(x + at + i, width - i) * scale[t];
            dot += load_n(grad + at + i, width - i) * load_n(weight + i, width - i) * unit;
        }
        float along = -sum(dot) / width;
        for (long i = 0; i < width; i += LANES) {
            vec unit = load_n(x + at + i, width - i) * scale[t];
            vec wide = load_n(grad + at + i, width - i) * load_n(weight + i, width - i);
            vec found = (wide + unit * along) * scale[t] + load_n(beside + at + i, width - i);
            store_n(out + at + i, found, width - i);
        }
    }
}

/* ---- SiLU of a gate, times what it gates; both stand beside each other, (tokens, 2 width) ---- */

void gate_forward(const real *both, long tokens, long width, real *out, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long t = 0; t < tokens; t++)
        for (long i = 0; i < width; i += LANES) {
            const real *at = both + 2 * t * width + i;
            vec gate = load_n(at, width - i), up = load_n(at + width, width - i);
            vec silu = rounded(gate / (1.0f + exponential(-gate)));
            store_n(out + t * width + i, silu * up, width - i);
        }
}

void gate_backward(const real *grad, const real *both, long tokens, long width, real *out, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long t = 0; t < tokens; t++)
        for (long i = 0; i < width; i += LANES) {
            const real *at = both + 2 * t * width + i;
            real *to = out + 2 * t * width + i;
            vec gate = load_n(at, width - i), up = load_n(at + width, width - i);
            vec g = load_n(grad + t * width + i, width - i);
            vec share = 1.0f / (1.0f + exponential(-gate));
            store_n(to, g * up * share * (1.0f + gate * (1.0f - share)), width - i);
            store_n(to + width, g * gate * share, width - i);
        }
}

/* ---- LoRA (Hu et al. 2021): y += s (x A') B', A (rank, in), B (out, rank) ----
 *
 * A product with so few columns is not worth a library's preparations. Its inner results, (tokens, rank), are padded
 * with noughts to a multiple of RANKS, so that every loop over ranks is RANKS long and lives in registers.
 */

/* to[t, r] = scale Σ_i x[t, i] m[i, r], for up to HIGH tokens; the rows of m are `ranks` apart. */
inlined void narrow(
    const real *x, long step, long width, const float *m, long ranks, float scale, float *to, long padded, int high)
{
    for (long r = 0; r < padded; r += RANKS) {
        vec found[HIGH] = {0};
        for (long i = 0; i < width; i += CHUNK) {
            float some[HIGH][CHUNK];
            long n = least(CHUNK, width - i);
            for (int t = 0; t < high; t++)
                for (long k = 0; k < n; k += LANES) storef(some[t] + k, load_n(x + t * step + i + k, n - k));
            for (long k = 0; k < n; k++) {
                vec row = loadf_n(m + (i + k) * ranks + r, ranks - r);
#pragma GCC unroll 16
                for (int t = 0; t < HIGH; t++) found[t] += some[t][k] * row;
            }
        }
#pragma GCC unroll 16
        for (int t = 0; t < HIGH; t++)
            if (t < high) storef(to + t * padded + r, scale * found[t]);
    }
}

/* Up to LANES columns: y[t, c] += Σ_r parts[t, r] rows[r, c]. */
inlined void add_columns(real *y, long step, const float *parts, long padded, const vec *rows, long tokens, long n)
{
    vec held[RANKS];
    for (int r = 0; r < RANKS; r++) held[r] = rows[r];
    for (long t = 0; t < tokens; t++) {
        __builtin_prefetch(y + (t + AHEAD) * step, 1);
        vec v = load_n(y + t * step, n), other = {0};
        for (int r = 0; r < RANKS; r += 2) { /* two chains of sums: one alone would wait for itself */
            v += parts[t * padded + r] * held[r];
            other += parts[t * padded + r + 1] * held[r + 1];
        }
        store_n(y + t * step, v + other, n);
    }
}

/* Up to LANES columns: found[r] = Σ_t parts[t, r] x[t, c]. */
inlined void sum_columns(const real *x, long step, const float *parts, long padded, vec *found, long tokens, long n)
{
    vec held[RANKS] = {0};
    for (long t = 0; t < tokens; t++) {
        __builtin_prefetch(x + (t + AHEAD) * step);
        vec v = load_n(x + t * step, n);
        for (int r = 0; r < RANKS; r++) held[r] += parts[t * padded + r] * v;
    }
    for (int r = 0; r < RANKS; r++) found[r] = held[r];
}

/* `turned` has room for (in, padded): A on its side. */
void lora_forward(
    const real *x, long in, const float *a, const float *b, long rank, float scale, long tokens, float *turned,
    float *down, real *y, long y_step, long out, int threads)
{
    long padded = (rank + RANKS - 1) / RANKS * RANKS;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long i = 0; i < in; i += LANES)
            for (long k = i; k < least(i + LANES, in); k++)
                for (long r = 0; r < padded; r++) turned[k * padded + r] = r < rank ? a[r * in + k] : 0;
#pragma omp for schedule(dynamic, 2)
        for (long t = 0; t < tokens; t += HIGH)
            narrow(x + t * in, in, in, turned, padded, scale, down + t * padded, padded, (int)least(HIGH, tokens - t));
#pragma omp for schedule(dynamic, 4)
        for (long o = 0; o < out; o += LANES)
            for (long r = 0; r < padded; r += RANKS) {
                vec rows[RANKS] = {0};
                for (long i = 0; i < least(LANES, out - o); i++)
                    for (long k = 0; k < least(RANKS, rank - r); k++) rows[k][i] = b[(o + i) * rank + r + k];
                if (out - o >= LANES) add_columns(y + o, y_step, down + r, padded, rows, tokens, LANES);
                else add_columns(y + o, y_step, down + r, padded, rows, tokens, out - o);
            }
    }
}

/* The gradients of A and B, and that of x added to `grad_x` where it is wanted. `back` has room for (tokens, padded). */
void lora_backward(
    const real *grad, long step, long out, const real *x, long in, const float *a, const float *b, long rank,
    float scale, const float *down, long tokens, float *back, real *grad_x, float *grad_a, float *grad_b, int threads)
{
    long padded = (rank + RANKS - 1) / RANKS * RANKS;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 2)
        for (long t = 0; t < tokens; t += HIGH)
            narrow(
                grad + t * step, step, out, b, rank, scale, back + t * padded, padded, (int)least(HIGH, tokens - t));
#pragma omp for schedule(dynamic, 4) nowait
        for (long i = 0; i < in; i += LANES) {
            long n = in - i;
            for (long r = 0; r < padded; r += RANKS) {
                vec rows[RANKS] = {0};
                long ranks = least(RANKS, rank - r);
                if (n >= LANES) sum_columns(x + i, in, back + r, padded, rows, tokens, LANES);
                else sum_columns(x + i, in, back + r, padded, rows, tokens, n);
                for (long k = 0; k < ranks; k++) storef_n(grad_a + (r + k) * in + i, rows[k], n);
                if (!grad_x) continue;
                for (long k = 0; k < RANKS; k++) rows[k] = k < ranks ? loadf_n(a + (r + k) * in + i, n) : (vec){0};
                if (n >= LANES) add_columns(grad_x + i, in, back + r, padded, rows, tokens, LANES);
                else add_columns(grad_x + i, in, back + r, padded, rows, tokens, n);
            }
        }
#pragma omp for schedule(dynamic, 4)
        for (long o = 0; o < out; o += LANES)
            for (long r = 0; r < padded; r += RANKS) {
                vec rows[RANKS];
                if (out - o >= LANES) sum_columns(grad + o, step, down + r, padded, rows, tokens, LANES);
                else sum_columns(grad + o, step, down + r, padded, rows, tokens, out - o);
                for (long i = 0; i < least(LANES, out - o); i++)
                    for (long k = 0; k < least(RANKS, rank - r); k++) grad_b[(o + i) * rank + r + k] = rows[k][i];
            }
    }
}

/* ---- Attention within each row, with rotary positions (Su et al. 2021) ----
 *
 * A token's queries (heads), keys and values (kv each) stand beside each other, `dim` numbers each. A row is taken TILE
 * queries at a time over all keys that they may see; what softmax gave is computed again on the way back, from the
 * logarithm of its sum (Dao et al. 2022).
 */

typedef struct {
    long rows, heads, kv, dim;
    const long *starts;      /* (rows + 1,) where each row begins */
    const float *cos, *sin;  /* (longest row, dim) */
    float scaling;
    int causal;
} Heads;

/* to[i, c] (+)= Σ_k x[i, k] y[k, c] for up to TILE rows (all of which can be read), x by the steps given; columns are a
 * multiple of LANES. */
inlined void small_product(
    float *to, long to_step, const float *x, long x_row, long x_inner, const float *y, long y_step, long rows,
    long columns, long inner, int add)
{
    for (long c = 0; c < columns; c += LANES) {
        vec found[TILE] = {0};
        for (long k = 0; k < inner; k++) {
            vec v = loadf(y + k * y_step + c);
#pragma GCC unroll 8
            for (int i = 0; i < TILE; i++) found[i] += x[i * x_row + k * x_inner] * v;
        }
#pragma GCC unroll 8
        for (int i = 0; i < TILE; i++)
            if (i < rows) storef(to + i * to_step + c, add ? loadf(to + i * to_step + c) + found[i] : found[i]);
    }
}

inlined float wide(real x)
{
#ifdef BF16
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
#else
    return x;
#endif
}

/* One head of a row as fp32 (length, padded), or the other way; turned by its positions forward (1), back (-1) or not. */
static void take(const real *from, long step, long length, long dim, long padded, float *to)
{
    for (long t = 0; t < length; t++)
        for (long i = 0; i < dim; i++) to[t * padded + i] = wide(from[t * step + i]);
}

static void put(const float *from, long padded, long length, long dim, real *to, long step)
{
    for (long t = 0; t < length; t++)
        for (long i = 0; i < dim; i += LANES) store_n(to + t * step + i, loadf(from + t * padded + i), dim - i);
}

static void turn(float *x, long padded, long length, long dim, const float *cos, const float *sin, float way)
{
    long half = dim / 2;
    for (long t = 0; t < length; t++)
        for (long i = 0; i < half; i++) {
            float *a = x + t * padded + i, *b = a + half, first = *a, second = *b;
            *a = first * cos[t * dim + i] - way * second * sin[t * dim + i];
            *b = second * cos[t * dim + half + i] + way * first * sin[t * dim + half + i];
        }
}

static void transpose(const float *x, long padded, long length, long dim, float *to, long to_step)
{
    for (long t = 0; t < length; t++)
        for (long i = 0; i < dim; i++) to[i * to_step + t] = x[t * padded + i];
}

/* How many keys a tile of queries sees, and how many the query i. */
inlined long seen(const Heads *h, long i, long high, long length) { return h->causal ? least(length, i + high) : length; }

void attention_forward(const Heads *h, real *qkv, real *mixed, float *logsum, int threads)
{
    long dim = h->dim, padded = whole(dim), width = (h->heads + 2 * h->kv) * dim, each = h->heads / h->kv;
    long longest = 0;
    for (long row = 0; row < h->rows; row++)
        if (h->starts[row + 1] - h->starts[row] > longest) longest = h->starts[row + 1] - h->starts[row];
    long across = whole(longest), one = (longest + TILE) * padded;
#pragma omp parallel num_threads(threads)
    {
        float *q = calloc(2 * one + padded * across + TILE * (across + padded), sizeof(float));
        float *v = q + one, *keys = v + one;
        float *shares = keys + padded * across, *out = shares + TILE * across;
#pragma omp for schedule(dynamic, 2)
        for (long item = 0; item < h->rows * h->kv; item++) {
            long row = item / h->kv, group = item % h->kv, start = h->starts[row], length = h->starts[row + 1] - start;
            real *here = qkv + start * width, *key = here + (h->heads + group) * dim;
            take(key, width, length, dim, padded, q);
            turn(q, padded, length, dim, h->cos, h->sin, 1);
            put(q, padded, length, dim, key, width);
            take(key, width, length, dim, padded, q);
            memset(keys, 0, padded * across * sizeof(float));
            transpose(q, padded, length, dim, keys, across);
            take(key + h->kv * dim, width, length, dim, padded, v);
            for (long head = group * each; head < (group + 1) * each; head++) {
                real *query = here + head * dim;
                take(query, width, length, dim, padded, q);
                turn(q, padded, length, dim, h->cos, h->sin, 1);
                put(q, padded, length, dim, query, width);
                take(query, width, length, dim, padded, q);
                for (long i = 0; i < length; i += TILE) {
                    long high = least(TILE, length - i), visible = seen(h, i, high, length);
                    small_product(
                        shares, across, q + i * padded, padded, 1, keys, across, high, whole(visible), dim, 0);
                    for (long k = 0; k < high; k++) {
                        long own = seen(h, i + k, 1, length);
                        float *s = shares + k * across, most = -INFINITY, total = 0;
                        for (long j = 0; j < own; j++) most = s[j] > most ? s[j] : most;
                        for (long j = 0; j < own; j += LANES)
                            storef(s + j, exponential((loadf(s + j) - most) * h->scaling));
                        for (long j = own; j < whole(visible); j++) s[j] = 0;
                        for (long j = 0; j < own; j++) total += s[j];
                        for (long j = 0; j < own; j++) s[j] /= total;
                        logsum[(start + i + k) * h->heads + head] = most * h->scaling + logf(total);
                    }
                    small_product(out, padded, shares, across, 1, v, padded, high, padded, visible, 0);
                    put(out, padded, high, dim, mixed + ((start + i) * h->heads + head) * dim, h->heads * dim);
                }
            }
        }
        free(q);
    }
}

/* `qkv` as the forward pass left it: turned. The gradient is that of what it was before. */
void attention_backward(
    const Heads *h, const real *qkv, const real *grad, const float *logsum, real *grad_qkv, int threads)
{
    long dim = h->dim, padded = whole(dim), width = (h->heads + 2 * h->kv) * dim, each = h->heads / h->kv;
    long longest = 0;
    for (long row = 0; row < h->rows; row++)
        if (h->starts[row + 1] - h->starts[row] > longest) longest = h->starts[row + 1] - h->starts[row];
    long across = whole(longest), one = (longest + TILE) * padded;
#pragma omp parallel num_threads(threads)
    {
        float *q = calloc(6 * one + 2 * padded * across + 2 * TILE * across, sizeof(float));
        float *k = q + one, *g = k + one, *to_q = g + one, *to_k = to_q + one, *to_v = to_k + one;
        float *keys = to_v + one, *values = keys + padded * across;
        float *shares = values + padded * across, *slopes = shares + TILE * across;
#pragma omp for schedule(dynamic, 2)
        for (long item = 0; item < h->rows * h->kv; item++) {
            long row = item / h->kv, group = item % h->kv, start = h->starts[row], length = h->starts[row + 1] - start;
            const real *here = qkv + start * width, *key = here + (h->heads + group) * dim;
            real *there = grad_qkv + start * width;
            memset(keys, 0, 2 * padded * across * sizeof(float));
            take(key + h->kv * dim, width, length, dim, padded, k);
            transpose(k, padded, length, dim, values, across);
            take(key, width, length, dim, padded, k);
            transpose(k, padded, length, dim, keys, across);
            memset(to_k, 0, 2 * one * sizeof(float));
            for (long head = group * each; head < (group + 1) * each; head++) {
                take(here + head * dim, width, length, dim, padded, q);
                take(grad + (start * h->heads + head) * dim, h->heads * dim, length, dim, padded, g);
                for (long i = 0; i < length; i += TILE) {
                    long high = least(TILE, length - i), visible = seen(h, i, high, length);
                    small_product(
                        shares, across, q + i * padded, padded, 1, keys, across, high, whole(visible), dim, 0);
                    small_product(
                        slopes, across, g + i * padded, padded, 1, values, across, high, whole(visible), dim, 0);
                    for (long n = 0; n < high; n++) {
                        long own = seen(h, i + n, 1, length);
                        float *s = shares + n * across, *d = slopes + n * across, mean = 0;
                        float sums = logsum[(start + i + n) * h->heads + head];
                        for (long j = 0; j < own; j += LANES)
                            storef(s + j, exponential(loadf(s + j) * h->scaling - sums));
                        for (long j = own; j < whole(visible); j++) s[j] = d[j] = 0;
                        for (long j = 0; j < own; j++) mean += s[j] * d[j];
                        for (long j = 0; j < own; j++) d[j] = s[j] * (d[j] - mean) * h->scaling;
                    }
                    small_product(
                        to_q + i * padded, padded, slopes, across, 1, k, padded, high, padded, visible, 0);
                    for (long j = 0; j < visible; j += TILE) {
                        long n = least(TILE, visible - j);
                        small_product(
                            to_k + j * padded, padded, slopes + j, 1, across, q + i * padded, padded, n, padded, high,
                            1);
                        small_product(
                            to_v + j * padded, padded, shares + j, 1, across, g + i * padded, padded, n, padded, high,
                            1);
                    }
                }
                turn(to_q, padded, length, dim, h->cos, h->sin, -1);
                put(to_q, padded, length, dim, there + head * dim, width);
            }
            turn(to_k, padded, length, dim, h->cos, h->sin, -1);
            put(to_k, padded, length, dim, there + (h->heads + group) * dim, width);
            put(to_v, padded, length, dim, there + (h->heads + h->kv + group) * dim, width);
        }
        free(q);
    }
}
