/*
 * The passes over chunks, compiled: numbers into planes and back, planes packed and back, counts of a sample.
 *
 * What each does is said by its numpy twin (numpy_passes.py), byte for byte; tests hold the two together. A call works
 * on several chunks and lets other threads run meanwhile. Payloads come from disk and may be forged: every length is
 * checked here, before the lock is let go, and escapes are counted as they are used.
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

enum { BLOCK = 2048, MOST_PLANES = 8, VALUES = 256 }; /* BLOCK: elements at a time; divides by 4 */

typedef enum { AS_IS, ROTATED, DIFFERENCE } Turn;

/* A plane on its way back into numbers: one value, bytes, or packed values with escapes. */
typedef struct {
    const uint8_t *bytes; /* NULL where it is one value */
    const uint8_t *escapes;
    size_t escape_count, used;
    int bits;      /* of a packed value; 8: not packed */
    uint8_t value; /* the one value, or the lowest packed one */
    Py_buffer held[2];
    int holds;
} Plane;

/* Finding bytes */

/* Where `wanted` stands in bytes[0..count): calls FOUND with `at`. */
#if defined(__SSE2__) && defined(__GNUC__)
#define FOR_EACH(wanted, bytes, count, FOUND)                                                              \
    do {                                                                                                   \
        size_t at_ = 0;                                                                                    \
        const __m128i same_ = _mm_set1_epi8((char)(wanted));                                               \
        for (; at_ + 16 <= (count); at_ += 16) {                                                           \
            __m128i some_ = _mm_loadu_si128((const __m128i *)((bytes) + at_));                             \
            unsigned mask_ = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some_, same_));                    \
            for (; mask_; mask_ &= mask_ - 1) {                                                            \
                size_t at = at_ + (size_t)__builtin_ctz(mask_);                                            \
                FOUND                                                                                      \
            }                                                                                              \
        }                                                                                                  \
        for (; at_ < (count); at_++)                                                                       \
            if ((bytes)[at_] == (wanted)) {                                                                \
                size_t at = at_;                                                                           \
                FOUND                                                                                      \
            }                                                                                              \
    } while (0)
#else
#define FOR_EACH(wanted, bytes, count, FOUND)                                                              \
    do {                                                                                                   \
        for (size_t at = 0; at < (count); at++)                                                            \
            if ((bytes)[at] == (wanted)) {                                                                 \
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
        FOR_EACH(escape, values, length, { escapes[found++] = from[at]; });
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
    FOR_EACH(escape, room, count, {
        if (plane->used == plane->escape_count) return NULL;
        room[at] = plane->escapes[plane->used++];
    });
    return room;
}

/* Numbers of one width, apart and back. HALF is half of BITS; `flags` gets, bit by bit, which bits ever vary. */

#define DEFINE_WIDTH(T, H, BITS, HALF)                                                                               \
    CHOSEN_AT_RUN_TIME                                                                                               \
    static uint64_t split##BITS(const uint8_t *raw, const uint8_t *base, size_t count, Turn turn, int halved,        \
                                uint8_t *planes) {                                                                   \
        const T bias = (T)0x8080808080808080u;                                                                       \
        const size_t low = halved ? sizeof(H) : 0;                                                                   \
        const int places = (int)(sizeof(T) - low);                                                                   \
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
                uint8_t *kept = planes + start * sizeof(H);                                                          \
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
                uint8_t *plane = planes + (low + (size_t)place) * count + start;                                     \
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

PyDoc_STRVAR(sample_doc, "sample(raw, base, width, step, rotate) -> bytes\n\n"
                         "How often each byte value stands at each place of every step-th element: uint32[width][256].");

static PyObject *kernel_sample(PyObject *Py_UNUSED(self), PyObject *arguments) {
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
            const Turn turn = old == Py_None ? (rotate ? ROTATED : AS_IS) : DIFFERENCE;
            switch (width) {
            case 1: sample8(raw.buf, base.buf, count, (size_t)step, turn, counts); break;
            case 2: sample16(raw.buf, base.buf, count, (size_t)step, turn, counts); break;
            case 4: sample32(raw.buf, base.buf, count, (size_t)step, turn, counts); break;
            default: sample64(raw.buf, base.buf, count, (size_t)step, turn, counts);
            }
            result = PyBytes_FromStringAndSize((const char *)counts, width * VALUES * (Py_ssize_t)sizeof(uint32_t));
        }
        if (base.obj != NULL) PyBuffer_Release(&base);
    }
    PyBuffer_Release(&raw);
    return result;
}

PyDoc_STRVAR(split_doc, "split(raw, base, width, rotate, halved, planes) -> int\n\n"
                        "Fill planes, one after another; the bits of cut elements that are not the same all over.");

static PyObject *kernel_split(PyObject *Py_UNUSED(self), PyObject *arguments) {
    Py_buffer raw, base, planes;
    PyObject *old, *result = NULL;
    Py_ssize_t width;
    int rotate, halved;
    if (!PyArg_ParseTuple(arguments, "y*Onppw*", &raw, &old, &width, &rotate, &halved, &planes)) return NULL;
    if (opened(old, &base)) {
        if (checked(known_width(width) && !(halved && width < 2) && (old == Py_None || base.len == raw.len) &&
                        planes.len == raw.len / width * width,
                    "planes of unknown width, or of other lengths")) {
            const size_t count = (size_t)(raw.len / width);
            const Turn turn = old == Py_None ? (rotate ? ROTATED : AS_IS) : DIFFERENCE;
            uint64_t varying;
            Py_BEGIN_ALLOW_THREADS
            switch (width) {
            case 1: varying = split8(raw.buf, base.buf, count, turn, 0, planes.buf); break;
            case 2: varying = split16(raw.buf, base.buf, count, turn, halved, planes.buf); break;
            case 4: varying = split32(raw.buf, base.buf, count, turn, halved, planes.buf); break;
            default: varying = split64(raw.buf, base.buf, count, turn, halved, planes.buf);
            }
            Py_END_ALLOW_THREADS
            result = PyLong_FromUnsignedLongLong(varying);
        }
        if (base.obj != NULL) PyBuffer_Release(&base);
    }
    PyBuffer_Release(&planes);
    PyBuffer_Release(&raw);
    return result;
}

static void close_planes(Plane *planes, int count) {
    for (int i = 0; i < count; i++)
        while (planes[i].holds) PyBuffer_Release(&planes[i].held[--planes[i].holds]);
}

static int hold(Plane *plane, PyObject *from, Py_ssize_t length) {
    Py_buffer *view = &plane->held[plane->holds];
    if (PyObject_GetBuffer(from, view, PyBUF_SIMPLE) != 0) return 0;
    plane->holds++;
    return checked(length < 0 || view->len == length, "a plane of another length");
}

/* A plane of `length` bytes from Python: an int, a buffer, or (bits, low, packed, escapes). */
static int open_plane(PyObject *from, size_t length, Plane *plane) {
    memset(plane, 0, sizeof *plane);
    plane->bits = 8;
    if (PyLong_Check(from)) {
        const long value = PyLong_AsLong(from);
        plane->value = (uint8_t)value;
        return !(value == -1 && PyErr_Occurred()) && checked(value >= 0 && value < VALUES, "a value of no byte");
    }
    if (PyTuple_Check(from)) {
        int bits, low;
        PyObject *packed, *escapes;
        if (!PyArg_ParseTuple(from, "iiOO", &bits, &low, &packed, &escapes) ||
            !checked((bits == 2 || bits == 4) && low >= 0 && low < VALUES, "a plane packed in an unknown way") ||
            !hold(plane, packed, (Py_ssize_t)packed_length(length, bits)) || !hold(plane, escapes, -1))
            return 0;
        plane->bits = bits;
        plane->value = (uint8_t)low;
        plane->escapes = plane->held[1].buf;
        plane->escape_count = (size_t)plane->held[1].len;
    } else if (!hold(plane, from, (Py_ssize_t)length)) {
        return 0;
    }
    plane->bytes = plane->held[0].buf;
    return 1;
}

PyDoc_STRVAR(join_doc, "join(planes, target, width, rotated, halved, difference) -> bool\n\n"
                       "Fill the whole elements of target, or add to them; False where escapes do not come out even.");

static PyObject *kernel_join(PyObject *Py_UNUSED(self), PyObject *arguments) {
    PyObject *given, *result = NULL;
    Py_buffer target;
    Py_ssize_t width;
    int rotated, halved, difference;
    if (!PyArg_ParseTuple(arguments, "O!w*nppp", &PyList_Type, &given, &target, &width, &rotated, &halved, &difference))
        return NULL;
    Plane planes[MOST_PLANES];
    int opened_planes = 0;
    const Py_ssize_t number = halved ? width / 2 + 1 : width;
    int good = checked(known_width(width) && !(halved && width < 2) && PyList_Size(given) == number,
                       "planes of unknown width, or too few");
    const size_t count = good ? (size_t)(target.len / width) : 0;
    while (good && opened_planes < number) {
        const size_t length = halved && !opened_planes ? count * (size_t)(width / 2) : count;
        good = open_plane(PyList_GetItem(given, opened_planes), length, &planes[opened_planes]);
        opened_planes++;
    }
    if (good) {
        const Turn turn = difference ? DIFFERENCE : rotated ? ROTATED : AS_IS;
        int even;
        Py_BEGIN_ALLOW_THREADS
        switch (width) {
        case 1: even = join8(planes, count, turn, 0, target.buf); break;
        case 2: even = join16(planes, count, turn, halved, target.buf); break;
        case 4: even = join32(planes, count, turn, halved, target.buf); break;
        default: even = join64(planes, count, turn, halved, target.buf);
        }
        for (int i = 0; i < number; i++) even = even && planes[i].used == planes[i].escape_count;
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(even);
    }
    close_planes(planes, opened_planes);
    PyBuffer_Release(&target);
    return result;
}

PyDoc_STRVAR(pack_doc, "pack(plane, ends, bits, low, packed, escapes) -> list[int]\n\n"
                       "Pack the parts of a plane that end at ends; where in escapes those of each part end.");

static PyObject *kernel_pack(PyObject *Py_UNUSED(self), PyObject *arguments) {
    Py_buffer plane, packed, escapes;
    PyObject *ends, *result = NULL;
    int bits, low;
    if (!PyArg_ParseTuple(arguments, "y*O!iiw*w*", &plane, &PyList_Type, &ends, &bits, &low, &packed, &escapes))
        return NULL;
    const Py_ssize_t parts = PyList_Size(ends);
    size_t *bounds = calloc((size_t)parts + 1, sizeof(size_t));
    int good = bounds != NULL ? 1 : (PyErr_NoMemory(), 0);
    good = good && checked((bits == 2 || bits == 4) && low >= 0 && low < VALUES, "packing in an unknown way");
    for (Py_ssize_t i = 0; good && i < parts; i++) {
        const Py_ssize_t end = PyLong_AsSsize_t(PyList_GetItem(ends, i));
        good = !(end == -1 && PyErr_Occurred()) &&
               checked(end >= (Py_ssize_t)bounds[i] && end <= plane.len && bounds[i] % 4 == 0, "parts of no plane");
        bounds[i + 1] = good ? (size_t)end : 0;
    }
    good = good && checked(parts > 0 && bounds[parts] == (size_t)plane.len, "parts that do not fill their plane") &&
           checked((size_t)packed.len >= packed_length((size_t)plane.len, bits) && escapes.len >= plane.len,
                   "too little room for packing");
    if (good) {
        const uint8_t *from = plane.buf;
        uint8_t *to = packed.buf, *outside = escapes.buf;
        size_t found = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < parts; i++) {
            const size_t start = bounds[i], count = bounds[i + 1] - start;
            uint8_t *at = to + start / 4 * (size_t)(bits / 2);
            found += (bits == 4 ? pack4 : pack2)(from + start, count, (uint8_t)low, at, outside + found);
            bounds[i] = found;
        }
        Py_END_ALLOW_THREADS
        result = PyList_New(parts);
        for (Py_ssize_t i = 0; result != NULL && i < parts; i++) {
            PyObject *end = PyLong_FromSize_t(bounds[i]);
            if (end == NULL || PyList_SetItem(result, i, end) != 0) {
                Py_DECREF(result);
                result = NULL;
            }
        }
    }
    free(bounds);
    PyBuffer_Release(&escapes);
    PyBuffer_Release(&packed);
    PyBuffer_Release(&plane);
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

PyDoc_STRVAR(copy_doc, "copy(sources, target)\n\nCopy buffers into one, one after another; they fill it.");

static PyObject *kernel_copy(PyObject *Py_UNUSED(self), PyObject *arguments) {
    Py_buffer target;
    PyObject *sources;
    if (!PyArg_ParseTuple(arguments, "O!w*", &PyList_Type, &sources, &target)) return NULL;
    const Py_ssize_t number = PyList_Size(sources);
    Py_buffer *from = calloc((size_t)number + 1, sizeof(Py_buffer));
    Py_ssize_t held = 0;
    size_t left = (size_t)target.len;
    int good = from != NULL ? 1 : (PyErr_NoMemory(), 0);
    while (good && held < number) {
        good = PyObject_GetBuffer(PyList_GetItem(sources, held), &from[held], PyBUF_SIMPLE) == 0;
        if (!good) break;
        const size_t length = (size_t)from[held++].len;
        good = checked(length <= left, "more to copy than there is room for");
        left -= good ? length : 0;
    }
    good = good && checked(left == 0, "less to copy than there is room for");
    if (good) {
        uint8_t *to = target.buf;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < held; i++) {
            if (from[i].len) memmove(to, from[i].buf, (size_t)from[i].len);
            to += from[i].len;
        }
        Py_END_ALLOW_THREADS
    }
    while (held) PyBuffer_Release(&from[--held]);
    free(from);
    PyBuffer_Release(&target);
    return good ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef METHODS[] = {
    {"sample", kernel_sample, METH_VARARGS, sample_doc}, {"split", kernel_split, METH_VARARGS, split_doc},
    {"join", kernel_join, METH_VARARGS, join_doc},       {"pack", kernel_pack, METH_VARARGS, pack_doc},
    {"same", kernel_same, METH_VARARGS, same_doc},       {"copy", kernel_copy, METH_VARARGS, copy_doc},
    {NULL, NULL, 0, NULL},
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
