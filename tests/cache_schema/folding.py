"""Folders that take names which differ by case alone for one, as those of macOS and Windows do.

A library of this kind stands before the file functions of the C library: below ``$FOLDING``, a name leads to
what is there in any spelling, and what is new keeps its own.
"""

import subprocess
from pathlib import Path

LIBRARY = """
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *folded(const char *path, char *out) {
    const char *root = getenv("FOLDING");
    size_t length = strlen(root);
    if (!path || strncmp(path, root, length) || path[length] != '/')
        return path;
    DIR *(*list)(const char *) = dlsym(RTLD_NEXT, "opendir");
    char rest[PATH_MAX], *save, *part;
    strcpy(out, root);
    strcpy(rest, path + length);
    for (part = strtok_r(rest, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
        DIR *folder = list(out);
        struct dirent *entry;
        char *end = out + strlen(out);
        *end++ = '/';
        strcpy(end, part);
        while (folder && (entry = readdir(folder)))
            if (!strcasecmp(entry->d_name, part))
                strcpy(end, entry->d_name);
        if (folder)
            closedir(folder);
    }
    return out;
}

#define FOLD(type, name, parameters, ...) \\
    type name parameters { \\
        type (*real) parameters = dlsym(RTLD_NEXT, #name); \\
        char one[PATH_MAX], two[PATH_MAX]; \\
        (void)two; \\
        return real(__VA_ARGS__); \\
    }
#define A folded(a, one)
#define B folded(b, two)

FOLD(int, stat, (const char *a, struct stat *s), A, s)
FOLD(int, lstat, (const char *a, struct stat *s), A, s)
FOLD(int, stat64, (const char *a, struct stat64 *s), A, s)
FOLD(int, lstat64, (const char *a, struct stat64 *s), A, s)
FOLD(int, fstatat, (int f, const char *a, struct stat *s, int g), f, A, s, g)
FOLD(int, fstatat64, (int f, const char *a, struct stat64 *s, int g), f, A, s, g)
FOLD(int, statx, (int f, const char *a, int g, unsigned m, struct statx *s), f, A, g, m, s)
FOLD(int, access, (const char *a, int m), A, m)
FOLD(int, chmod, (const char *a, mode_t m), A, m)
FOLD(int, mkdir, (const char *a, mode_t m), A, m)
FOLD(int, rmdir, (const char *a), A)
FOLD(int, unlink, (const char *a), A)
FOLD(int, unlinkat, (int f, const char *a, int g), f, A, g)
FOLD(int, rename, (const char *a, const char *b), A, B)
FOLD(DIR *, opendir, (const char *a), A)

#define OPEN(name) \\
    int name(const char *a, int flags, ...) { \\
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \\
        char one[PATH_MAX]; \\
        va_list more; \\
        va_start(more, flags); \\
        mode_t mode = va_arg(more, mode_t); \\
        va_end(more); \\
        return real(A, flags, mode); \\
    }
OPEN(open)
OPEN(open64)
"""


def compile_library(file: Path) -> None:
    """Write the library, which ``$LD_PRELOAD`` takes."""
    compiler = ["gcc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(file)]
    subprocess.run(compiler, input=LIBRARY, text=True, check=True)
