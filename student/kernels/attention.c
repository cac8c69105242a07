/* Attention within each row, with rotary positions (Su et al. 2021).
 *
 * A token's queries (heads of them), keys and values (kv each) are adjacent, `dim` numbers each. A row is processed TILE
 * queries at a time over all keys that they attend to; the backward pass recomputes the softmax from its log-sum-exp
 * (Dao et al. 2022).
 */
#include <math.h>
#include <stdlib.h>

#include "lanes.h"

enum { TILE = 8 };

typedef struct {
    long rows, heads, kv, dim;
    const long *starts;      /* (rows + 1,) first token of each row, then the end */
    const float *cos, *sin;  /* (longest row, dim) */
    float scaling;
    int causal;
} Heads;

/* to[i, c] (+)= Σ_k x[i, k] y[k, c] for `rows` ≤ TILE rows, with the strides given. TILE rows of x must be readable;
 * `columns` is a multiple of LANES. */
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

/* Copy one head of a row to fp32, (length, padded), and back. */
static void take(const real *from, long step, long length, long dim, long padded, float *to)
{
    for (long t = 0; t < length; t++)
        for (long i = 0; i < dim; i += LANES) storef(to + t * padded + i, load_n(from + t * step + i, dim - i));
}

static void put(const float *from, long padded, long length, long dim, real *to, long step)
{
    for (long t = 0; t < length; t++)
        for (long i = 0; i < dim; i += LANES) store_n(to + t * step + i, loadf(from + t * padded + i), dim - i);
}

/* Apply the rotary embedding (way 1) or its inverse (-1). */
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

/* Apply the rotary embedding to a head in place; `to` gets the result as fp32. */
static void take_turned(const Heads *h, real *from, long step, long length, long padded, float *to)
{
    take(from, step, length, h->dim, padded, to);
    turn(to, padded, length, h->dim, h->cos, h->sin, 1);
    put(to, padded, length, h->dim, from, step);
    take(from, step, length, h->dim, padded, to); /* rounded to `real`, as the backward pass reads it */
}

static long longest_row(const Heads *h)
{
    long found = 0;
    for (long row = 0; row < h->rows; row++)
        if (h->starts[row + 1] - h->starts[row] > found) found = h->starts[row + 1] - h->starts[row];
    return found;
}

/* Softmax in place over a query's first n scores, zero for the others up to `end`; returns the log-sum-exp. */
inlined float soften(float *s, long n, long end, float scaling)
{
    float most = -INFINITY, total = 0;
    for (long j = 0; j < n; j++) most = s[j] > most ? s[j] : most;
    for (long j = 0; j < n; j += LANES) storef(s + j, exponential((loadf(s + j) - most) * scaling));
    for (long j = n; j < end; j++) s[j] = 0;
    for (long j = 0; j < n; j++) total += s[j];
    for (long j = 0; j < n; j++) s[j] /= total;
    return most * scaling + logf(total);
}

/* Recompute the softmax s from the scores, and replace its gradient d by the gradient of the scores. */
inlined void soften_back(float *s, float *d, long n, long end, float scaling, float logsum)
{
    float mean = 0;
    for (long j = 0; j < n; j += LANES) storef(s + j, exponential(loadf(s + j) * scaling - logsum));
    for (long j = n; j < end; j++) s[j] = d[j] = 0;
    for (long j = 0; j < n; j++) mean += s[j] * d[j];
    for (long j = 0; j < n; j++) d[j] = s[j] * (d[j] - mean) * scaling;
}

/* The number of keys that the `high` queries from i on attend to. */
inlined long seen(const Heads *h, long i, long high, long length)
{
    return h->causal ? least(length, i + high) : length;
}

void attention_forward(const Heads *h, real *qkv, real *mixed, float *logsum, int threads)
{
    long dim = h->dim, padded = whole(dim), width = (h->heads + 2 * h->kv) * dim, each = h->heads / h->kv;
    long longest = longest_row(h), across = whole(longest), one = (longest + TILE) * padded;
#pragma omp parallel num_threads(threads)
    {
        float *q = calloc(2 * one + padded * across + TILE * (across + padded), sizeof(float));
        float *v = q + one, *keys = v + one;
        float *shares = keys + padded * across, *out = shares + TILE * across;
#pragma omp for schedule(dynamic, 2)
        for (long item = 0; item < h->rows * h->kv; item++) {
            long row = item / h->kv, group = item % h->kv, start = h->starts[row], length = h->starts[row + 1] - start;
            real *here = qkv + start * width, *key = here + (h->heads + group) * dim;
            take_turned(h, key, width, length, padded, q);
            memset(keys, 0, padded * across * sizeof(float));
            transpose(q, padded, length, dim, keys, across);
            take(key + h->kv * dim, width, length, dim, padded, v);
            for (long head = group * each; head < (group + 1) * each; head++) {
                take_turned(h, here + head * dim, width, length, padded, q);
                for (long i = 0; i < length; i += TILE) {
                    long high = least(TILE, length - i), visible = seen(h, i, high, length);
                    small_product(
                        shares, across, q + i * padded, padded, 1, keys, across, high, whole(visible), dim, 0);
                    for (long n = 0; n < high; n++)
                        logsum[(start + i + n) * h->heads + head] = soften(
                            shares + n * across, seen(h, i + n, 1, length), whole(visible), h->scaling);
                    small_product(out, padded, shares, across, 1, v, padded, high, padded, visible, 0);
                    put(out, padded, high, dim, mixed + ((start + i) * h->heads + head) * dim, h->heads * dim);
                }
            }
        }
        free(q);
    }
}

/* `qkv` as the forward pass left it, with rotary positions; the gradient is that of `qkv` before they were applied. */
void attention_backward(
    const Heads *h, const real *qkv, const real *grad, const float *logsum, real *grad_qkv, int threads)
{
    long dim = h->dim, padded = whole(dim), width = (h->heads + 2 * h->kv) * dim, each = h->heads / h->kv;
    long longest = longest_row(h), across = whole(longest), one = (longest + TILE) * padded;
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
                    for (long n = 0; n < high; n++)
                        soften_back(
                            shares + n * across, slopes + n * across, seen(h, i + n, 1, length), whole(visible),
                            h->scaling, logsum[(start + i + n) * h->heads + head]);
                    small_product(
                        to_q + i * padded, padded, slopes, across, 1, k, padded, high, padded, visible, 0);
                    for (long j = 0; j < visible; j += TILE) {
                        long n = least(TILE, visible - j);
                        long at = j * padded, tile = i * padded;
                        small_product(to_k + at, padded, slopes + j, 1, across, q + tile, padded, n, padded, high, 1);
                        small_product(to_v + at, padded, shares + j, 1, across, g + tile, padded, n, padded, high, 1);
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
