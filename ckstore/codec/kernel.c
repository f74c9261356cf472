/*
 * The passes over chunks, compiled: numbers into payloads of byte planes and back, and what a sample of them says.
 *
 * What each does is said by its numpy twin (numpy_passes.py); tests hold the two together. A call does all of a chunk
 * and lets other threads run meanwhile. Payloads come from disk and may be forged: every length is checked
 * before it is used, frames are decoded into room for what they must hold and no more, and escapes are counted as they
 * are used.
 *
 * zstd is not compiled in: `library` is told where its functions are (stable since 1.4, its manual says what they do).
 *
 * C11 and CPython's stable interface. Loops are plain, in blocks that stay in the first-level cache, so that a compiler
 * can use whatever vectors there are; two searches have an SSE2 form.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* One function, compiled for several processors, where the loader can choose: x86-64 with the GNU C library. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CHOSEN_AT_RUN_TIME __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CHOSEN_AT_RUN_TIME __attribute__((target_clones("avx2", "default")))
#else
#define CHOSEN_AT_RUN_TIME
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* BLOCK: elements at a time; divides by 4 */
enum { BLOCK = 2048, MOST_PLANES = 8, MOST_WAYS = 4, VALUES = 256, FAR = 255 };

typedef enum { AS_IS, ROTATED, DIFFERENCE } Turn;
typedef enum { RAW = 0, ZSTD = 1, PACKED2 = 2, CONSTANT = 3, PACKED4 = 4, SPARSE = 5 } Mode; /* as payloads have them */

/* The library zstd */

static struct {
    void *(*create_compressor)(void);
    size_t (*free_compressor)(void *);
    size_t (*set)(void *, int, int);
    size_t (*compress)(void *, void *, size_t, const void *, size_t);
    void *(*create_decompressor)(void);
    size_t (*free_decompressor)(void *);
    size_t (*decompress)(void *, void *, size_t, const void *, size_t);
    unsigned (*is_error)(size_t);
    unsigned long long (*content_size)(const void *, size_t);
    size_t (*frame_size)(const void *, size_t);
} zstd;

/* A thread's contexts and room; never used by two at once. */
typedef struct {
    void *compressors[2], *decompressor; /* one for repeats, one that passes over them */
    uint8_t *room;
    size_t size;
} Context;

/* Room for `size` bytes and a few more, with whatever is in them; NULL where there is none. In large pages where they
 * are many and the system has some, as work on them is faster. */
static uint8_t *roomy(Context *context, size_t size) {
    if (context->size < size || context->room == NULL) {
        free(context->room);
        context->size = 0;
        context->room = NULL;
#if defined(__linux__)
        enum { LARGE_PAGE = 2 << 20 };
        if (size >= LARGE_PAGE / 2) {
            size = (size + 64 + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE - 64;
            context->room = aligned_alloc(LARGE_PAGE, size + 64);
            if (context->room != NULL) madvise(context->room, size + 64, MADV_HUGEPAGE);
        }
#endif
        if (context->room == NULL) context->room = malloc(size + 64);
        context->size = context->room == NULL ? 0 : size;
    }
    return context->room;
}

/* Decodes the one frame that fills `from` and must hold `length` bytes; whether it does. */
static int decoded(Context *context, const uint8_t *from, size_t stored, uint8_t *to, size_t length) {
    return zstd.content_size(from, stored) == length && zstd.frame_size(from, stored) == stored &&
           zstd.decompress(context->decompressor, to, length, from, stored) == length;
}

/* A plane on its way back into numbers: one value, bytes, or packed values with escapes. */
typedef struct {
    const uint8_t *bytes; /* NULL where it is one value */
    const uint8_t *escapes;
    size_t escape_count, used;
    size_t frame_length, decoded; /* of the frame at `bytes`, where it is coded, and of what that holds */
    size_t length; /* of the plane itself */
    int coded, sparse;
    int bits;      /* of a packed value; 8: not packed */
    uint8_t value; /* the one value, or the lowest packed one, or what a sparse plane mostly is */
} Plane;

/* Finding bytes */

/* Where `wanted` stands in bytes[0..count), or with FLIP anything else: calls FOUND with `at`. */
#if defined(__SSE2__) && defined(__GNUC__)
#define FOR_EACH(wanted, FLIP, bytes, count, FOUND)                                                        \
    do {                                                                                                   \
        size_t at_ = 0;                                                                                    \
        const __m128i same_ = _mm_set1_epi8((char)(wanted));                                               \
        for (; at_ + 16 <= (count); at_ += 16) {                                                           \
            __m128i some_ = _mm_loadu_si128((const __m128i *)((bytes) + at_));                             \
            unsigned mask_ = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some_, same_));                    \
            if (FLIP) mask_ ^= 0xFFFFu;                                                                    \
            for (; mask_; mask_ &= mask_ - 1) {                                                            \
                size_t at = at_ + (size_t)__builtin_ctz(mask_);                                            \
                FOUND                                                                                      \
            }                                                                                              \
        }                                                                                                  \
        for (; at_ < (count); at_++)                                                                       \
            if (((bytes)[at_] == (wanted)) != (FLIP)) {                                                    \
                size_t at = at_;                                                                           \
                FOUND                                                                                      \
            }                                                                                              \
    } while (0)
#else
#define FOR_EACH(wanted, FLIP, bytes, count, FOUND)                                                        \
    do {                                                                                                   \
        for (size_t at = 0; at < (count); at++)                                                            \
            if (((bytes)[at] == (wanted)) != (FLIP)) {                                                     \
                FOUND                                                                                      \
            }                                                                                              \
    } while (0)
#endif

/* Packing */

INLINE size_t packed_length(size_t count, int bits) { return (count + 3) / 4 * (size_t)(bits / 2); }

/* Packs plane[0..count); returns how many escapes went to `escapes`, which has room for `count`. */
INLINE size_t pack_part(const uint8_t *plane, size_t count, int bits, uint8_t low, uint8_t *packed, uint8_t *escapes) {
    const uint8_t escape = (uint8_t)((1 << bits) - 1);
    uint8_t values[BLOCK];
    size_t found = 0;
    for (size_t start = 0; start < count; start += BLOCK) {
        const size_t length = count - start < BLOCK ? count - start : BLOCK;
        const size_t whole = (length + 3) / 4 * 4;
        const uint8_t *from = plane + start;
        for (size_t i = 0; i < length; i++) {
            const uint8_t value = (uint8_t)(from[i] - low);
            values[i] = value < escape ? value : escape;
        }
        for (size_t i = length; i < whole; i++) values[i] = 0;
        FOR_EACH(escape, 0, values, length, { escapes[found++] = from[at]; });
        if (bits == 4) {
            for (size_t i = 0; i < whole / 2; i++) packed[i] = (uint8_t)(values[2 * i] | values[2 * i + 1] << 4);
            packed += whole / 2;
        } else {
            for (size_t i = 0; i < whole / 4; i++)
                packed[i] = (uint8_t)(values[4 * i] | values[4 * i + 1] << 2 | values[4 * i + 2] << 4 |
                                      values[4 * i + 3] << 6);
            packed += whole / 4;
        }
    }
    return found;
}

CHOSEN_AT_RUN_TIME
static size_t pack4(const uint8_t *plane, size_t count, uint8_t low, uint8_t *packed, uint8_t *escapes) {
    return pack_part(plane, count, 4, low, packed, escapes);
}

CHOSEN_AT_RUN_TIME
static size_t pack2(const uint8_t *plane, size_t count, uint8_t low, uint8_t *packed, uint8_t *escapes) {
    return pack_part(plane, count, 2, low, packed, escapes);
}

/* Exceptions from one value: how far each is from the one before, then what they are */

/* The exceptions from `low` in plane[0..count): gaps to `gaps`, what they are to `values`; each has room for `count`.
 * How many there are; `size` gets the length of the gaps. */
static size_t except(const uint8_t *plane, size_t count, uint8_t low, uint8_t *gaps, uint8_t *values, size_t *size) {
    size_t found = 0, length = 0, next = 0;
    FOR_EACH(low, 1, plane, count, {
        size_t gap = at - next;
        for (; gap >= FAR; gap -= FAR) gaps[length++] = FAR;
        gaps[length++] = (uint8_t)gap;
        values[found++] = plane[at];
        next = at + 1;
    });
    *size = length;
    return found;
}

/* Puts `count` exceptions back into plane[0..length), all `low`; whether they fit and fill `stream`, which is `size`
 * long. */
static int put_back(const uint8_t *stream, size_t size, size_t count, uint8_t low, uint8_t *plane, size_t length) {
    if (size < count) return 0;
    const uint8_t *values = stream + size - count;
    size_t at = 0, found = 0;
    memset(plane, low, length);
    for (size_t i = 0; i < size - count; i++) {
        at += stream[i];
        if (stream[i] == FAR) continue;
        if (at >= length || found == count) return 0;
        plane[at++] = values[found++];
    }
    return found == count && at <= length;
}

/* The bytes start..start+count of a plane that varies: where they lie, or unpacked into `room`, which has room for
 * three more. `start` divides by four. NULL where escapes run out. */
INLINE const uint8_t *fetch(Plane *plane, size_t start, size_t count, uint8_t *room) {
    if (plane->bits == 8) return plane->bytes + start;
    const uint8_t low = plane->value;
    const uint8_t escape = (uint8_t)(low + (1 << plane->bits) - 1);
    if (plane->bits == 4) {
        const uint8_t *from = plane->bytes + start / 2;
        for (size_t i = 0; i < (count + 1) / 2; i++) {
            room[2 * i] = (uint8_t)((from[i] & 15) + low);
            room[2 * i + 1] = (uint8_t)((from[i] >> 4) + low);
        }
    } else {
        const uint8_t *from = plane->bytes + start / 4;
        for (size_t i = 0; i < (count + 3) / 4; i++) {
            room[4 * i] = (uint8_t)((from[i] & 3) + low);
            room[4 * i + 1] = (uint8_t)((from[i] >> 2 & 3) + low);
            room[4 * i + 2] = (uint8_t)((from[i] >> 4 & 3) + low);
            room[4 * i + 3] = (uint8_t)((from[i] >> 6) + low);
        }
    }
    FOR_EACH(escape, 0, room, count, {
        if (plane->used == plane->escape_count) return NULL;
        room[at] = plane->escapes[plane->used++];
    });
    return room;
}

/* Numbers of one width, apart and back. HALF is half of BITS; `flags` gets, bit by bit, which bits ever vary. */

#define DEFINE_WIDTH(T, H, BITS, HALF)                                                                               \
    CHOSEN_AT_RUN_TIME                                                                                               \
    static uint64_t split##BITS(const uint8_t *raw, const uint8_t *base, size_t count, Turn turn, int halved,        \
                                uint8_t *const *planes) {                                                            \
        const T bias = (T)0x8080808080808080u;                                                                       \
        const size_t low = halved ? sizeof(H) : 0;                                                                   \
        const int places = (int)(sizeof(T) - low);                                                                   \
        uint8_t *const *high = planes + (halved ? 1 : 0);                                                            \
        T turned[BLOCK];                                                                                             \
        T first = 0, varying = 0;                                                                                    \
        for (size_t start = 0; start < count; start += BLOCK) {                                                      \
            const size_t length = count - start < BLOCK ? count - start : BLOCK;                                     \
            const uint8_t *from = raw + start * sizeof(T);                                                           \
            if (turn == DIFFERENCE) {                                                                                \
                const uint8_t *old = base + start * sizeof(T);                                                       \
                for (size_t i = 0; i < length; i++) {                                                                \
                    T a, b;                                                                                          \
                    memcpy(&a, from + i * sizeof(T), sizeof(T));                                                     \
                    memcpy(&b, old + i * sizeof(T), sizeof(T));                                                      \
                    turned[i] = (T)(a - b + bias);                                                                   \
                }                                                                                                    \
            } else if (turn == ROTATED && !halved) {                                                                 \
                for (size_t i = 0; i < length; i++) {                                                                \
                    T a;                                                                                             \
                    memcpy(&a, from + i * sizeof(T), sizeof(T));                                                     \
                    turned[i] = (T)(a << 1 | a >> (BITS - 1));                                                       \
                }                                                                                                    \
            } else if (!halved) {                                                                                    \
                memcpy(turned, from, length * sizeof(T));                                                            \
            }                                                                                                        \
            if (halved) {                                                                                            \
                const uint8_t *source = turn == DIFFERENCE ? (const uint8_t *)turned : from;                         \
                uint8_t *kept = planes[0] + start * sizeof(H);                                                       \
                for (size_t i = 0; i < length; i++) {                                                                \
                    T a;                                                                                             \
                    memcpy(&a, source + i * sizeof(T), sizeof(T));                                                   \
                    const H half = (H)a, high = (H)(a >> HALF);                                                      \
                    memcpy(kept + i * sizeof(H), &half, sizeof(H));                                                  \
                    turned[i] = turn == ROTATED ? (H)(high << 1 | high >> (HALF - 1)) : high;                        \
                }                                                                                                    \
            }                                                                                                        \
            if (!start) first = turned[0];                                                                           \
            for (size_t i = 0; i < length; i++) varying |= (T)(turned[i] ^ first);                                   \
            for (int place = 0; place < places; place++) {                                                           \
                uint8_t *plane = high[place] + start;                                                                \
                for (size_t i = 0; i < length; i++) plane[i] = (uint8_t)(turned[i] >> (8 * place));                  \
            }                                                                                                        \
        }                                                                                                            \
        return varying;                                                                                              \
    }                                                                                                                \
                                                                                                                     \
    CHOSEN_AT_RUN_TIME                                                                                               \
    static int join##BITS(Plane *planes, size_t count, Turn turn, int halved, uint8_t *target) {                     \
        const T bias = (T)0x8080808080808080u;                                                                       \
        const size_t low = halved ? sizeof(H) : 0;                                                                   \
        const int places = (int)(sizeof(T) - low);                                                                   \
        Plane *high = planes + (halved ? 1 : 0);                                                                     \
        T joined[BLOCK];                                                                                             \
        uint8_t room[BLOCK * sizeof(H) + 4];                                                                         \
        T constant = 0;                                                                                              \
        for (int place = 0; place < places; place++)                                                                 \
            if (high[place].bytes == NULL) constant |= (T)((T)high[place].value << (8 * place));                     \
        for (size_t start = 0; start < count; start += BLOCK) {                                                      \
            const size_t length = count - start < BLOCK ? count - start : BLOCK;                                     \
            uint8_t *to = target + start * sizeof(T);                                                                \
            for (size_t i = 0; i < length; i++) joined[i] = constant;                                                \
            for (int place = 0; place < places; place++) {                                                           \
                if (high[place].bytes == NULL) continue;                                                             \
                const uint8_t *from = fetch(&high[place], start, length, room);                                      \
                if (from == NULL) return 0;                                                                          \
                for (size_t i = 0; i < length; i++) joined[i] |= (T)((T)from[i] << (8 * place));                     \
            }                                                                                                        \
            if (halved) {                                                                                            \
                if (turn == ROTATED)                                                                                 \
                    for (size_t i = 0; i < length; i++) {                                                            \
                        const H half = (H)joined[i];                                                                 \
                        joined[i] = (H)(half >> 1 | half << (HALF - 1));                                             \
                    }                                                                                                \
                if (planes[0].bytes == NULL) {                                                                       \
                    H half;                                                                                          \
                    memset(&half, planes[0].value, sizeof(H));                                                       \
                    for (size_t i = 0; i < length; i++) joined[i] = (T)(joined[i] << HALF | half);                   \
                } else {                                                                                             \
                    const uint8_t *from = fetch(&planes[0], start * sizeof(H), length * sizeof(H), room);            \
                    if (from == NULL) return 0;                                                                      \
                    for (size_t i = 0; i < length; i++) {                                                            \
                        H half;                                                                                      \
                        memcpy(&half, from + i * sizeof(H), sizeof(H));                                              \
                        joined[i] = (T)(joined[i] << HALF | half);                                                   \
                    }                                                                                                \
                }                                                                                                    \
            }                                                                                                        \
            if (turn == DIFFERENCE) {                                                                                \
                for (size_t i = 0; i < length; i++) {                                                                \
                    T a;                                                                                             \
                    memcpy(&a, to + i * sizeof(T), sizeof(T));                                                       \
                    a = (T)(a + joined[i] - bias);                                                                   \
                    memcpy(to + i * sizeof(T), &a, sizeof(T));                                                       \
                }                                                                                                    \
            } else if (turn == ROTATED && !halved) {                                                                 \
                for (size_t i = 0; i < length; i++) {                                                                \
                    const T a = (T)(joined[i] >> 1 | joined[i] << (BITS - 1));                                       \
                    memcpy(to + i * sizeof(T), &a, sizeof(T));                                                       \
                }                                                                                                    \
            } else {                                                                                                 \
                memcpy(to, joined, length * sizeof(T));                                                              \
            }                                                                                                        \
        }                                                                                                            \
        return 1;                                                                                                    \
    }                                                                                                                \
                                                                                                                     \
    static void sample##BITS(const uint8_t *raw, const uint8_t *base, size_t count, size_t step, Turn turn,          \
                             uint32_t *counts) {                                                                     \
        const T bias = (T)0x8080808080808080u;                                                                       \
        for (size_t i = 0; i < count; i += step) {                                                                   \
            T a, b = 0;                                                                                              \
            memcpy(&a, raw + i * sizeof(T), sizeof(T));                                                              \
            if (turn == DIFFERENCE) {                                                                                \
                memcpy(&b, base + i * sizeof(T), sizeof(T));                                                         \
                a = (T)(a - b + bias);                                                                               \
            } else if (turn == ROTATED) {                                                                            \
                a = (T)(a << 1 | a >> (BITS - 1));                                                                   \
            }                                                                                                        \
            for (size_t place = 0; place < sizeof(T); place++)                                                       \
                counts[place * VALUES + (uint8_t)(a >> (8 * place))]++;                                              \
        }                                                                                                            \
    }

DEFINE_WIDTH(uint8_t, uint8_t, 8, 4)
DEFINE_WIDTH(uint16_t, uint8_t, 16, 8)
DEFINE_WIDTH(uint32_t, uint16_t, 32, 16)
DEFINE_WIDTH(uint64_t, uint32_t, 64, 32)

static int known_width(Py_ssize_t width) { return width == 1 || width == 2 || width == 4 || width == 8; }

static int checked(int good, const char *what) {
    if (!good) PyErr_SetString(PyExc_ValueError, what);
    return good;
}

/* What Python calls */

/* An optional buffer: None leaves `view->buf` NULL. */
static int opened(PyObject *from, Py_buffer *view) {
    view->buf = NULL;
    view->obj = NULL;
    view->len = 0;
    return from == Py_None || PyObject_GetBuffer(from, view, PyBUF_SIMPLE) == 0;
}

/* A tuple of two numbers. */
static int pair(PyObject *from, int *first, int *second) {
    return checked(PyTuple_Check(from), "not a pair") && PyArg_ParseTuple(from, "ii", first, second);
}

/* zstd, told by Python */

PyDoc_STRVAR(library_doc, "library(functions)\n\n"
                          "Where the functions of zstd are, in the order in which `zstd` has them.");

static PyObject *kernel_library(PyObject *Py_UNUSED(self), PyObject *functions) {
    enum { NUMBER = sizeof zstd / sizeof(void *) };
    void *found[NUMBER];
    if (!checked(PyList_Check(functions) && PyList_Size(functions) == NUMBER, "another number of functions"))
        return NULL;
    for (Py_ssize_t i = 0; i < NUMBER; i++) {
        found[i] = PyLong_AsVoidPtr(PyList_GetItem(functions, i));
        if (found[i] == NULL) {
            checked(PyErr_Occurred() != NULL, "a function that is nowhere");
            return NULL;
        }
    }
    memcpy(&zstd, found, sizeof zstd);
    return Py_NewRef(Py_None);
}

static const char CONTEXT[] = "ckstore.codec._kernel.context";

static void free_context(PyObject *capsule) {
    Context *context = PyCapsule_GetPointer(capsule, CONTEXT);
    for (int i = 0; i < 2; i++)
        if (context->compressors[i] != NULL) zstd.free_compressor(context->compressors[i]);
    if (context->decompressor != NULL) zstd.free_decompressor(context->decompressor);
    free(context->room);
    free(context);
}

PyDoc_STRVAR(context_doc, "context(repeats, literals) -> capsule\n\n"
                          "What one thread works with: (number, value) pairs, parameters of zstd's two compressors.");

static PyObject *kernel_context(PyObject *Py_UNUSED(self), PyObject *arguments) {
    PyObject *parameters[2];
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &parameters[0], &PyList_Type, &parameters[1]) ||
        !checked(zstd.compress != NULL, "no library yet"))
        return NULL;
    Context *context = calloc(1, sizeof *context);
    if (context == NULL) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(context, CONTEXT, free_context);
    if (capsule == NULL) {
        free(context);
        return NULL;
    }
    context->decompressor = zstd.create_decompressor();
    int good = context->decompressor != NULL ? 1 : (PyErr_NoMemory(), 0);
    for (int which = 0; good && which < 2; which++) {
        void *compressor = context->compressors[which] = zstd.create_compressor();
        if (compressor == NULL) good = (PyErr_NoMemory(), 0);
        for (Py_ssize_t i = 0; good && i < PyList_Size(parameters[which]); i++) {
            int number, value;
            good = pair(PyList_GetItem(parameters[which], i), &number, &value) &&
                   checked(!zstd.is_error(zstd.set(compressor, number, value)), "a parameter zstd does not take");
        }
    }
    if (!good) {
        Py_DECREF(capsule);
        return NULL;
    }
    return capsule;
}

/* What a sample says */

/* log2 of x > 0, to about 1e-12. */
static double log_two(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m /= 2;
        exponent++;
    }
    const double s = (m - 1) / (m + 1), q = s * s;
    double sum = 0;
    for (int i = 15; i > 0; i -= 2) sum = sum * q + 1.0 / i;
    return exponent + 2 * s * sum * 1.4426950408889634;
}

/* n log2 n; of what samples mostly count, from a table. */
static double times_log(uint32_t n) {
    enum { KNOWN = 4096 };
    static double known[KNOWN]; /* filled once, under the interpreter's lock */
    if (n >= KNOWN) return n * log_two(n);
    if (known[2] == 0)
        for (uint32_t i = KNOWN; i-- > 2;) known[i] = i * log_two(i);
    return known[n];
}

/* Order-0 entropy of so many values as a share of eight bits. What a sample of n says of k values is too low by
 * (k - 1) / 2n nats (Miller and Madow). */
static double entropy(const uint32_t *counts, size_t number) {
    double sum = 0;
    size_t seen = 0;
    for (int i = 0; i < VALUES; i++)
        if (counts[i]) {
            sum += times_log(counts[i]);
            seen++;
        }
    if (!number) return 0;
    const double share = (log_two((double)number) - sum / (double)number) / 8;
    const double missed = seen > 1 ? (double)(seen - 1) / (2 * (double)number * 0.6931471805599453 * 8) : 0;
    return share + missed < 1 ? (seen > 1 ? share + missed : 0) : 1;
}

/* Where the window of `width` values begins that holds most, the first of them; and how many it holds. */
static int window(const uint32_t *counts, int width, size_t *holds) {
    size_t held = 0;
    int low = 0;
    for (int i = 0; i < width; i++) held += counts[i];
    *holds = held;
    for (int i = 1; i < VALUES; i++) {
        held += counts[(i + width - 1) % VALUES] - (size_t)counts[i - 1];
        if (held > *holds) {
            *holds = held;
            low = i;
        }
    }
    return low;
}

PyDoc_STRVAR(survey_doc, "survey(raw, base, width, step, rotate) -> list[tuple]\n\n"
                         "Of each byte of every step-th element: its entropy, and for windows of 15, 3 and 1 values\n"
                         "where the fullest begins and what share it holds.");

static PyObject *kernel_survey(PyObject *Py_UNUSED(self), PyObject *arguments) {
    Py_buffer raw, base;
    PyObject *old, *result = NULL;
    Py_ssize_t width, step;
    int rotate;
    if (!PyArg_ParseTuple(arguments, "y*Onnp", &raw, &old, &width, &step, &rotate)) return NULL;
    if (opened(old, &base)) {
        if (checked(known_width(width) && step > 0 && (old == Py_None || base.len == raw.len),
                    "a sample of unknown width, or of a base of another length")) {
            uint32_t counts[MOST_PLANES * VALUES] = {0};
            const size_t count = (size_t)(raw.len / width);
            const size_t number = (count + (size_t)step - 1) / (size_t)step;
            const Turn turn = old == Py_None ? (rotate ? ROTATED : AS_IS) : DIFFERENCE;
            switch (width) {
            case 1: sample8(raw.buf, base.buf, count, (size_t)step, turn, counts); break;
            case 2: sample16(raw.buf, base.buf, count, (size_t)step, turn, counts); break;
            case 4: sample32(raw.buf, base.buf, count, (size_t)step, turn, counts); break;
            default: sample64(raw.buf, base.buf, count, (size_t)step, turn, counts);
            }
            result = PyList_New(width);
            for (Py_ssize_t i = 0; result != NULL && i < width; i++) {
                const uint32_t *mine = counts + i * VALUES;
                size_t wide, narrow, single;
                const int first = window(mine, 15, &wide), second = window(mine, 3, &narrow);
                const int third = window(mine, 1, &single);
                const double whole = number ? (double)number : 1;
                PyObject *one =
                    Py_BuildValue("(dididid)", entropy(mine, number), first, (double)wide / whole, second,
                                  (double)narrow / whole, third, (double)single / whole);
                if (one == NULL || PyList_SetItem(result, i, one) != 0) Py_CLEAR(result);
            }
        }
        if (base.obj != NULL) PyBuffer_Release(&base);
    }
    PyBuffer_Release(&raw);
    return result;
}

/* Encoding */

typedef struct {
    Mode mode;
    uint8_t low;
    int literal; /* no repeats are looked for unless there seem to be some */
} Plan;

typedef struct {
    int width, halved;
    Turn turn;
    double worth;
    int number; /* of planes */
    int ways[MOST_PLANES]; /* how many of each may be the shortest */
    Plan planes[MOST_PLANES][MOST_WAYS];
} Manner;

/* HEAD: what a packed or sparse plane begins with; RARE: more than one escape in so many bytes are too many. */
enum { HEAD = 5, RARE = 8 };

static size_t header_length(int planes) { return ((size_t)(2 + 5 * planes) + 7) / 8 * 8; }

static void put32(uint8_t *to, size_t value) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (8 * i));
}

/* Room that a payload may need: each plane comes to its own length at most, but zstd wants more to begin with. */
static size_t bound(size_t length) { return length + length / 128 + 1024; }

/* Whether strings of eight bytes come again, in a piece from the middle: zstd then does better looking for repeats. */
static int repeats(const uint8_t *plane, size_t length) {
    enum { PIECE = 2048, SLOTS = 1024, STRING = 8, SOME = 16 };
    uint16_t slots[SLOTS] = {0}; /* where a string of that hash stood last, and one more */
    const size_t count = length < PIECE ? length : PIECE;
    const uint8_t *piece = plane + (length - count) / 2;
    size_t found = 0;
    for (size_t i = 0; i + STRING <= count; i++) {
        uint64_t string;
        memcpy(&string, piece + i, STRING);
        uint16_t *slot = &slots[string * 0x9E3779B97F4A7C15u >> 54];
        found += *slot && memcmp(piece + *slot - 1, &string, STRING) == 0;
        *slot = (uint16_t)(i + 1);
    }
    return found * SOME >= count;
}

/* Compresses `length` bytes and decodes them again; 0 where they do not fit or do not come out shorter than `most`, -1
 * where they do not come back. */
static Py_ssize_t compress_checked(Context *context, int literal, const uint8_t *from, size_t length, uint8_t *to,
                                   size_t most, uint8_t *back) {
    const size_t stored = zstd.compress(context->compressors[literal], to, bound(length) - 512, from, length);
    if (zstd.is_error(stored) || stored > most) return 0;
    return decoded(context, to, stored, back, length) && memcmp(back, from, length) == 0 ? (Py_ssize_t)stored : -1;
}

/* The exceptions of a sparse plane at `to`; what they came to, as `encode_plane`, and -2 where they are too many. */
static Py_ssize_t encode_sparse(Context *context, const uint8_t *plane, size_t length, uint8_t low, size_t most,
                                uint8_t *to, uint8_t *spare) {
    uint8_t *values = spare + length;
    size_t size;
    const size_t found = except(plane, length, low, spare, values, &size);
    if (found > length / RARE) return -2;
    memmove(spare + size, values, found);
    const Py_ssize_t stored = compress_checked(context, 0, spare, size + found, to + HEAD, most, spare + size + found);
    to[0] = low;
    put32(to + 1, found);
    return stored > 0 ? HEAD + stored : stored;
}

/* A packed plane and its escapes at `to`; what they came to, as `encode_plane`, and -2 where those are too many. */
static Py_ssize_t encode_packed(Context *context, const uint8_t *plane, size_t length, Plan plan, size_t most,
                                uint8_t *to, uint8_t *spare) {
    const size_t packed = packed_length(length, (int)plan.mode);
    uint8_t *escapes = spare + packed;
    const size_t found = (plan.mode == PACKED4 ? pack4 : pack2)(plane, length, plan.low, spare, escapes);
    if (found > length / RARE || found > most) return -2;
    const Py_ssize_t stored =
        compress_checked(context, 0, spare, packed, to + HEAD, most - found, escapes + found);
    to[0] = plan.low;
    put32(to + 1, found);
    if (stored > 0) memcpy(to + HEAD + stored, escapes, found);
    return stored > 0 ? HEAD + stored + (Py_ssize_t)found : stored;
}

/* One plane as planned, at `to`; what it came to, 0 where it is to stay raw, -1 where it does not come back. A plane
 * that is other than was planned for is compressed as it is, and the plan says so. */
static Py_ssize_t encode_plane(Context *context, const uint8_t *plane, size_t length, Plan *plan, double worth,
                               uint8_t *to, uint8_t *spare) {
    const size_t most = (size_t)(worth * (double)length);
    if (plan->mode != ZSTD && most >= HEAD) {
        const Py_ssize_t stored = plan->mode == SPARSE
                                      ? encode_sparse(context, plane, length, plan->low, most - HEAD, to, spare)
                                      : encode_packed(context, plane, length, *plan, most - HEAD, to, spare);
        if (stored != -2) return stored;
    }
    plan->mode = ZSTD;
    return compress_checked(context, plan->literal && !repeats(plane, length), plane, length, to, most, spare);
}

/* Splits `count` elements into `planes`; which bits of the high ones ever vary. */
static uint64_t split(const Manner *manner, const uint8_t *raw, const uint8_t *base, size_t count,
                      uint8_t *const *planes) {
    switch (manner->width) {
    case 1: return split8(raw, base, count, manner->turn, 0, planes);
    case 2: return split16(raw, base, count, manner->turn, manner->halved, planes);
    case 4: return split32(raw, base, count, manner->turn, manner->halved, planes);
    default: return split64(raw, base, count, manner->turn, manner->halved, planes);
    }
}

/* Whether a plane is the same all over: `varying` is what `split` says. */
static int is_constant(const Manner *manner, int plane, uint64_t varying) {
    const int place = manner->halved ? plane - 1 : plane;
    return place >= 0 && !(varying >> (8 * place) & 0xFF);
}

/* Of each plane with several ways, puts that first which comes out shortest on a piece from the middle. 0 where a plane
 * does not come back. Room as for `encode_chunk`. */
static int choose(Context *context, Manner *manner, const uint8_t *raw, const uint8_t *base, size_t length, uint8_t *to,
                  uint8_t *room, uint8_t *spare) {
    enum { TRIED = 4096 };
    const size_t width = (size_t)manner->width, whole = length / width, count = whole < TRIED ? whole : TRIED;
    const size_t start = (whole - count) / 2 * width;
    uint8_t *planes[MOST_PLANES];
    size_t lengths[MOST_PLANES];
    int several = 0;
    for (int i = 0; i < manner->number; i++) {
        lengths[i] = manner->halved && !i ? count * (width / 2) : count;
        planes[i] = room;
        room += lengths[i];
        several = several || manner->ways[i] > 1;
    }
    if (!several || !count) return 1;
    const uint64_t varying = split(manner, raw + start, base != NULL ? base + start : NULL, count, planes);
    for (int i = 0; i < manner->number; i++) {
        if (manner->ways[i] == 1 || is_constant(manner, i, varying)) continue;
        size_t least = SIZE_MAX;
        int best = 0;
        for (int way = 0; way < manner->ways[i]; way++) {
            Plan plan = manner->planes[i][way];
            const Py_ssize_t came =
                plan.mode == RAW ? 0 : encode_plane(context, planes[i], lengths[i], &plan, 1, to, spare);
            if (came < 0) return 0;
            const size_t stored = came ? (size_t)came : lengths[i];
            if (stored < least) {
                least = stored;
                best = way;
            }
        }
        manner->planes[i][0] = manner->planes[i][best];
    }
    return 1;
}

/* The payload of one chunk at `to`, which has room for `bound` of its length. What it came to, -1 where a plane does
 * not come back. `planes` has room for all planes, `spare` for four times the longest. */
static Py_ssize_t encode_chunk(Context *context, Manner *manner, const uint8_t *raw, const uint8_t *base,
                               size_t length, uint8_t *to, size_t *busy, uint8_t *room, uint8_t *spare) {
    if (!choose(context, manner, raw, base, length, to, room, spare)) return -1;
    const size_t width = (size_t)manner->width, count = length / width, start = header_length(manner->number);
    uint8_t *planes[MOST_PLANES], *at = to + start;
    size_t lengths[MOST_PLANES];
    int in_place = 1;
    for (int i = 0; i < manner->number; i++) {
        lengths[i] = manner->halved && !i ? count * (width / 2) : count;
        in_place = in_place && manner->planes[i][0].mode == RAW;
        planes[i] = in_place ? at : room;
        *(in_place ? &at : &room) += lengths[i];
    }
    const uint64_t varying = split(manner, raw, base, count, planes);
    memset(to, 0, start);
    to[0] = (uint8_t)((manner->turn == ROTATED ? 1 : manner->turn == DIFFERENCE ? 2 : 0) | (manner->halved ? 4 : 0));
    to[1] = (uint8_t)width;
    *busy = length;
    at = to + start;
    for (int i = 0; i < manner->number; i++) {
        Plan plan = manner->planes[i][0];
        Mode mode = plan.mode;
        size_t stored = lengths[i];
        if (mode != RAW && count && is_constant(manner, i, varying)) {
            mode = CONSTANT;
            stored = 1;
            *at = planes[i][0];
            *busy -= count;
        } else if (mode != RAW) {
            const Py_ssize_t came = encode_plane(context, planes[i], lengths[i], &plan, manner->worth, at, spare);
            if (came < 0) return -1;
            mode = came ? plan.mode : RAW;
            if (came) stored = (size_t)came;
        }
        if (mode == RAW && planes[i] != at) memcpy(at, planes[i], lengths[i]);
        to[2 + 5 * i] = (uint8_t)mode;
        put32(to + 3 + 5 * i, stored);
        at += stored;
    }
    const size_t rest = length - count * width;
    if (rest) memcpy(at, raw + count * width, rest);
    return at + rest - to;
}

static int read_manner(PyObject *plans, Py_ssize_t width, int rotate, int halved, int difference, double worth,
                       Manner *manner) {
    const Py_ssize_t number = halved ? width / 2 + 1 : width;
    if (!checked(known_width(width) && !(halved && width < 2) && PyList_Size(plans) == number && worth <= 1,
                 "planes of unknown width, or too few"))
        return 0;
    manner->width = (int)width;
    manner->halved = halved;
    manner->turn = difference ? DIFFERENCE : rotate ? ROTATED : AS_IS;
    manner->worth = worth;
    manner->number = (int)number;
    for (Py_ssize_t i = 0; i < number; i++) {
        PyObject *ways = PyList_GetItem(plans, i);
        const Py_ssize_t several = PyList_Check(ways) ? PyList_Size(ways) : 0;
        if (!checked(several > 0 && several <= MOST_WAYS, "a plane planned in no way, or in too many")) return 0;
        manner->ways[i] = (int)several;
        for (Py_ssize_t way = 0; way < several; way++) {
            int mode, low, literal;
            PyObject *plan = PyList_GetItem(ways, way);
            if (!checked(PyTuple_Check(plan), "a plane planned in no way") ||
                !PyArg_ParseTuple(plan, "iip", &mode, &low, &literal) ||
                !checked(mode >= RAW && mode <= SPARSE && mode != CONSTANT && low >= 0 && low < VALUES &&
                             !(halved && !i && mode != RAW),
                         "a plane in an unknown mode"))
                return 0;
            manner->planes[i][way] = (Plan){.mode = (Mode)mode, .low = (uint8_t)low, .literal = literal};
        }
    }
    return 1;
}

PyDoc_STRVAR(encode_doc, "encode(context, raw, base, width, rotate, halved, plans, worth, payload) -> tuple | None\n\n"
                         "Put the payload of a chunk into payload; its length, and how many bytes are busy.\n"
                         "None where it does not come back.");

static PyObject *kernel_encode(PyObject *Py_UNUSED(self), PyObject *arguments) {
    Py_buffer raw, base, payload;
    PyObject *capsule, *old, *plans, *result = NULL;
    Py_ssize_t width;
    int rotate, halved;
    double worth;
    if (!PyArg_ParseTuple(arguments, "Oy*OnppO!dw*", &capsule, &raw, &old, &width, &rotate, &halved, &PyList_Type,
                          &plans, &worth, &payload))
        return NULL;
    Context *context = PyCapsule_GetPointer(capsule, CONTEXT);
    Manner manner;
    if (context != NULL && opened(old, &base)) {
        const size_t length = (size_t)raw.len;
        if (read_manner(plans, width, rotate, halved, old != Py_None, worth, &manner) &&
            checked(old == Py_None || base.len == raw.len, "a base of another length") &&
            checked(length < UINT32_MAX, "too long a chunk") &&
            checked(bound(length) <= (size_t)payload.len, "too little room for a payload")) {
            uint8_t *room = roomy(context, length + 4 * (length / (size_t)width) + 64);
            if (room != NULL) {
                Py_ssize_t came;
                size_t busy;
                Py_BEGIN_ALLOW_THREADS
                came = encode_chunk(context, &manner, raw.buf, base.buf, length, payload.buf, &busy, room,
                                    room + length);
                Py_END_ALLOW_THREADS
                result = came < 0 ? Py_NewRef(Py_None) : Py_BuildValue("(nn)", came, (Py_ssize_t)busy);
            } else {
                PyErr_NoMemory();
            }
        }
        if (base.obj != NULL) PyBuffer_Release(&base);
    }
    PyBuffer_Release(&payload);
    PyBuffer_Release(&raw);
    return result;
}

/* Decoding */

/* What is wrong with a payload; `decode` answers its number. */
typedef enum {
    GOOD,
    CUT_SHORT,
    UNKNOWN_HEADER,
    UNKNOWN_MODE,
    TOO_MANY_ESCAPES,
    OTHER_LENGTH,
    OTHER_KIND,
    DAMAGED,
    UNEVEN
} Wrong;

static size_t get32(const uint8_t *from) {
    return (size_t)from[0] | (size_t)from[1] << 8 | (size_t)from[2] << 16 | (size_t)from[3] << 24;
}

/* A plane of `length` bytes that `stored` bytes at `body` stand for. */
static Wrong open_plane(const uint8_t *body, size_t stored, int mode, size_t length, Plane *plane) {
    memset(plane, 0, sizeof *plane);
    plane->bits = 8;
    plane->bytes = body;
    plane->length = length;
    if (mode == RAW && stored == length) return GOOD;
    if (mode == CONSTANT && stored == 1) {
        plane->value = body[0];
        plane->bytes = NULL;
        return GOOD;
    }
    plane->frame_length = stored;
    plane->decoded = length;
    plane->coded = 1;
    if (mode == ZSTD) return GOOD;
    if (mode != PACKED2 && mode != PACKED4 && mode != SPARSE) return UNKNOWN_MODE;
    if (stored < HEAD) return CUT_SHORT;
    const size_t number = get32(body + 1);
    plane->value = body[0];
    plane->bytes = body + HEAD;
    plane->frame_length = stored - HEAD;
    plane->escape_count = number;
    if (number > length || (mode != SPARSE && number > stored - HEAD)) return TOO_MANY_ESCAPES;
    if (mode == SPARSE) {
        const unsigned long long holds = zstd.content_size(plane->bytes, plane->frame_length);
        const size_t most = 2 * number + length / FAR;
        if (holds > most) return UNEVEN;
        plane->decoded = (size_t)holds;
        plane->sparse = 1;
        plane->used = number;
    } else {
        plane->frame_length -= number;
        plane->escapes = plane->bytes + plane->frame_length;
        plane->bits = mode;
        plane->decoded = packed_length(length, mode);
    }
    return GOOD;
}

/* The planes of a payload that stands for `raw_length` bytes, and where the bytes after the last whole element are. */
static Wrong open_payload(const uint8_t *payload, size_t size, size_t width, size_t raw_length, int difference,
                          Plane *planes, int *number, const uint8_t **tail) {
    enum { ROTATED_BIT = 1, DIFFERENCE_BIT = 2, HALVED_BIT = 4 };
    if (size < 2) return CUT_SHORT;
    const int flags = payload[0], halved = flags & HALVED_BIT;
    if (payload[1] != width || flags >= 8 || (flags & ROTATED_BIT && flags & DIFFERENCE_BIT) || (halved && width <= 2))
        return UNKNOWN_HEADER;
    const size_t count = raw_length / width;
    *number = (int)(halved ? width / 2 + 1 : width);
    size_t at = header_length(*number);
    if (size < at) return CUT_SHORT;
    for (int i = 0; i < *number; i++) {
        const uint8_t *entry = payload + 2 + 5 * i;
        const size_t stored = get32(entry + 1), length = halved && !i ? count * (width / 2) : count;
        if (stored > size - at) return CUT_SHORT;
        const Wrong wrong = open_plane(payload + at, stored, entry[0], length, &planes[i]);
        if (wrong) return wrong;
        at += stored;
    }
    *tail = payload + at;
    if (size - at != raw_length - count * width) return OTHER_LENGTH;
    return !(flags & DIFFERENCE_BIT) == !difference ? GOOD : OTHER_KIND;
}

/* How much room a compressed plane is decoded in. */
INLINE size_t room_of(const Plane *plane) { return plane->decoded + (plane->sparse ? plane->length : 0); }

/* Decodes what is compressed of a plane into `room`, which has `room_of` it. */
static Wrong decode_plane(Context *context, Plane *plane, uint8_t *room) {
    if (!decoded(context, plane->bytes, plane->frame_length, room, plane->decoded)) return DAMAGED;
    plane->bytes = room;
    if (!plane->sparse) return GOOD;
    uint8_t *whole = room + plane->decoded;
    if (!put_back(room, plane->decoded, plane->escape_count, plane->value, whole, plane->length)) return UNEVEN;
    plane->bytes = whole;
    return GOOD;
}

PyDoc_STRVAR(decode_doc, "decode(context, payload, target, width, difference) -> int\n\n"
                         "Fill target, or add to it: 0; else what is wrong: target is then not to be used.");

static PyObject *kernel_decode(PyObject *Py_UNUSED(self), PyObject *arguments) {
    PyObject *capsule, *result = NULL;
    Py_buffer payload, target;
    Py_ssize_t width;
    int difference;
    if (!PyArg_ParseTuple(arguments, "Oy*w*np", &capsule, &payload, &target, &width, &difference)) return NULL;
    Context *context = PyCapsule_GetPointer(capsule, CONTEXT);
    if (context != NULL && checked(known_width(width), "elements of unknown width")) {
        Plane planes[MOST_PLANES];
        int number = 0;
        const uint8_t *tail = NULL;
        const size_t size = (size_t)target.len, count = size / (size_t)width;
        Wrong wrong = open_payload(payload.buf, (size_t)payload.len, (size_t)width, size, difference, planes, &number,
                                   &tail);
        const int halved = !wrong && number < width;
        size_t needed = 0;
        for (int i = 0; !wrong && i < number; i++)
            if (planes[i].coded) needed += room_of(&planes[i]);
        uint8_t *room = wrong ? NULL : roomy(context, needed);
        if (wrong || room != NULL) {
            Py_BEGIN_ALLOW_THREADS
            for (int i = 0; !wrong && i < number; i++) {
                if (!planes[i].coded) continue;
                wrong = decode_plane(context, &planes[i], room);
                room += room_of(&planes[i]);
            }
            if (!wrong) {
                const Turn turn = difference ? DIFFERENCE : ((const uint8_t *)payload.buf)[0] & 1 ? ROTATED : AS_IS;
                int even = 1;
                switch (width) {
                case 1: even = join8(planes, count, turn, 0, target.buf); break;
                case 2: even = join16(planes, count, turn, halved, target.buf); break;
                case 4: even = join32(planes, count, turn, halved, target.buf); break;
                default: even = join64(planes, count, turn, halved, target.buf);
                }
                for (int i = 0; i < number; i++) even = even && planes[i].used == planes[i].escape_count;
                if (!even) wrong = UNEVEN;
                if (even && tail != NULL && size > count * (size_t)width)
                    memcpy((uint8_t *)target.buf + count * (size_t)width, tail, size - count * (size_t)width);
            }
            Py_END_ALLOW_THREADS
            result = PyLong_FromLong(wrong);
        } else {
            PyErr_NoMemory();
        }
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&payload);
    return result;
}

PyDoc_STRVAR(same_doc, "same(one, other) -> bool\n\n"
                       "Whether two buffers hold the same bytes. Keeps the lock: a plane takes too little time.");

static PyObject *kernel_same(PyObject *Py_UNUSED(self), PyObject *arguments) {
    Py_buffer one, other;
    if (!PyArg_ParseTuple(arguments, "y*y*", &one, &other)) return NULL;
    const int equal = one.len == other.len && memcmp(one.buf, other.buf, (size_t)one.len) == 0;
    PyBuffer_Release(&other);
    PyBuffer_Release(&one);
    return PyBool_FromLong(equal);
}

PyDoc_STRVAR(copy_doc, "copy(source, target)\n\nCopy one buffer into another, as long as it.");

static PyObject *kernel_copy(PyObject *Py_UNUSED(self), PyObject *arguments) {
    Py_buffer source, target;
    if (!PyArg_ParseTuple(arguments, "y*w*", &source, &target)) return NULL;
    const int good = checked(source.len == target.len, "a target of another length");
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        if (source.len) memmove(target.buf, source.buf, (size_t)source.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return good ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef METHODS[] = {
    {"library", kernel_library, METH_O, library_doc},    {"context", kernel_context, METH_VARARGS, context_doc},
    {"survey", kernel_survey, METH_VARARGS, survey_doc}, {"encode", kernel_encode, METH_VARARGS, encode_doc},
    {"decode", kernel_decode, METH_VARARGS, decode_doc}, {"same", kernel_same, METH_VARARGS, same_doc},
    {"copy", kernel_copy, METH_VARARGS, copy_doc},       {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_doc = "The passes over chunks, compiled.",
    .m_size = 0,
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&MODULE); }
