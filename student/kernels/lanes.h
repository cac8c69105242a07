/* SIMD primitives on sixteen numbers, for the operations of a decoder layer on packed rows other than its products with
 * frozen weights (see decoder_layer.py).
 *
 * Rows of tokens are concatenated without padding. Activations are `real`: bf16 (with -DBF16) or fp32; adapters, their
 * gradients and all sums are fp32. Every sum is computed by one thread in a fixed order, so results do not depend on the
 * number of threads.
 */
#pragma once
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16 };

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
#ifdef __AVX512F__ /* compilers split the conversion into two halves */
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
    words even = bits + 0x7fff + ((bits >> 16) & 1); /* round to nearest, ties to even */
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

/* The first n lanes only; load fills the others with zero, store leaves them unchanged. */
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

/* e^x, accurate to about two units in the last place: 2^n times a polynomial (Moshier's Cephes). */
inlined vec exponential(vec x)
{
    const vec nought = {0};
    vec low = nought - 87.0f, high = nought + 88.0f, in = x;
    x = pick(x > high, high, x);
    vec shifted = x * 1.44269504f + 12582912.0f; /* rounds to the nearest integer, which is in the low bits */
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
    return pick(in < low, nought, pick(in != in, in, out)); /* zero instead of denormals, which are slow */
}
