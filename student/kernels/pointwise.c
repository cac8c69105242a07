/* RMS norm and SwiGLU gate, token by token. */
#include <math.h>

#include "lanes.h"

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

/* The gradient of the norm's input, plus `beside`, the gradient of the same input through the residual connection. */
void norm_backward(
    const real *grad, const real *x, const float *scale, const real *weight, const real *beside, long tokens,
    long width, real *out, int threads)
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

/* ---- SwiGLU (Shazeer 2020): SiLU(gate) times up; a row of `both` is gate, then up: (tokens, 2 width) ---- */

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
