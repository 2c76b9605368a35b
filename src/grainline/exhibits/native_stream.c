/* STREAM as one would write it by hand in C with OpenMP: the baseline. Its own process, told by lines on standard input:
 *
 *   ordinary      one repetition with ordinary stores; answers the seconds of copy, scale, add and triad
 *   streaming     the same with streaming stores
 *   reset         begins again; answers the number of threads
 *   check         answers the number of elements that aren't what they must be after so many repetitions
 *
 * Begins by saying the number of threads. Arguments: elements per array, and perhaps a file descriptor of memory to
 * share: three arrays, each from a whole page on. Without it the arrays are its own, and reset.
 */
#define _GNU_SOURCE
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

static long n;
static double *a, *b, *c;
static const double s = 3.0;

static double *reserve(int file, int which) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = ((size_t)n * sizeof(double) + page - 1) / page * page;
    const int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, file, file < 0 ? 0 : (off_t)(size * which));
    if (pages == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return pages;
}

static void copy(void) {
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) c[i] = a[i];
}

static void scale(void) {
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) b[i] = s * c[i];
}

static void add(void) {
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) c[i] = a[i] + b[i];
}

static void triad(void) {
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) a[i] = b[i] + s * c[i];
}

/* The same with the widest streaming stores of the processor that it is compiled for. */
#if defined(__AVX512F__)
#define V(NAME) _mm512_##NAME
typedef __m512d pack;
#elif defined(__AVX__)
#define V(NAME) _mm256_##NAME
typedef __m256d pack;
#elif defined(__SSE2__)
#define V(NAME) _mm_##NAME
typedef __m128d pack;
#endif
#ifdef V
enum { WIDTH = sizeof(pack) / sizeof(double) };
#define AT(X) V(load_pd)((X) + WIDTH * i)
/* The fence belongs to each thread: its stores must have left before the others go on. */
#define STREAMING(NAME, OUT, PACK, ONE)                                              \
    static void NAME(void) {                                                         \
        const pack wide = V(set1_pd)(s);                                             \
        (void)wide;                                                                  \
        _Pragma("omp parallel") {                                                    \
            _Pragma("omp for schedule(static)") for (long i = 0; i < n / WIDTH; i++) \
                V(stream_pd)(OUT + WIDTH * i, PACK);                                 \
            _mm_sfence();                                                            \
        }                                                                            \
        for (long i = n - n % WIDTH; i < n; i++) OUT[i] = ONE;                       \
    }
STREAMING(copy_past, c, AT(a), a[i])
STREAMING(scale_past, b, V(mul_pd)(wide, AT(c)), s * c[i])
STREAMING(add_past, c, V(add_pd)(AT(a), AT(b)), a[i] + b[i])
STREAMING(triad_past, a, V(add_pd)(AT(b), V(mul_pd)(wide, AT(c))), b[i] + s * c[i])
static void (*const PAST[4])(void) = {copy_past, scale_past, add_past, triad_past};
#endif
static void (*const PLAIN[4])(void) = {copy, scale, add, triad};

static void repetition(void (*const kernels[4])(void)) {
    for (int k = 0; k < 4; k++) {
        const double start = omp_get_wtime();
        kernels[k]();
        printf("%.9f%c", omp_get_wtime() - start, k < 3 ? ' ' : '\n');
    }
}

static void reset(void) {
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) a[i] = 1, b[i] = 2, c[i] = 0;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) a[i] = 2 * a[i];
}

static long wrong(int repetitions) {
    double want_a = 2, want_b = 2, want_c = 0;
    for (int k = 0; k < repetitions; k++) {
        want_c = want_a;
        want_b = s * want_c;
        want_c = want_a + want_b;
        want_a = want_b + s * want_c;
    }
    long found = 0;
#pragma omp parallel for schedule(static) reduction(+ : found)
    for (long i = 0; i < n; i++) found += a[i] != want_a || b[i] != want_b || c[i] != want_c;
    return found;
}

int main(int count, char **words) {
    if (count < 2 || count > 3 || (n = atol(words[1])) < 1) {
        fprintf(stderr, "usage: %s ELEMENTS [FILE_DESCRIPTOR]\n", words[0]);
        return 2;
    }
    const int file = count == 3 ? atoi(words[2]) : -1;
    a = reserve(file, 0), b = reserve(file, 1), c = reserve(file, 2);
    if (file < 0) reset();
    printf("%d\n", omp_get_max_threads());
    fflush(stdout);
    char line[32];
    for (int repetitions = 0; fgets(line, sizeof line, stdin); fflush(stdout)) {
        if (!strcmp(line, "check\n")) {
            printf("%ld\n", wrong(repetitions));
        } else if (!strcmp(line, "reset\n")) {
            reset(), repetitions = 0;
            printf("%d\n", omp_get_max_threads());
        } else if (!strcmp(line, "ordinary\n")) {
            repetition(PLAIN), repetitions++;
#ifdef V
        } else if (!strcmp(line, "streaming\n")) {
            repetition(PAST), repetitions++;
#endif
        } else {
            printf("?\n");
        }
    }
    return 0;
}
