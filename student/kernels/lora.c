/* LoRA (Hu et al. 2021): y += s (x A') B', A (rank, in), B (out, rank).
 *
 * For products with so few columns the set-up cost of a BLAS library exceeds the computation. The intermediate x A',
 * (tokens, rank), is zero-padded to a multiple of RANKS columns, so that every loop over ranks has RANKS steps and its
 * values fit in registers.
 */
#include "lanes.h"

enum { RANKS = 16, HIGH = 12, CHUNK = 64, AHEAD = 12 };

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
        for (int r = 0; r < RANKS; r += 2) { /* two independent sums, to hide the latency of an addition */
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

/* `turned`, (in, padded), is a buffer for the transpose of A. */
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

/* Gradients of A and B; that of x is added to `grad_x` unless it is NULL. `back`, (tokens, padded), is a buffer. */
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
