/* Writes lines of 64 bytes to stdout: as many a second as its first argument says, for as many seconds as the second
   says, evenly, a hundredth of a second's lines at a time. Then writes to the FIFO in its third argument when it was
   done, as the benchmark's worker does its start, but with the longest time that a write took in place of its pid. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    int lines = atoi(argv[1]) / 100, turns = atoi(argv[2]) * 100, fifo = open(argv[3], O_WRONLY);
    char *text = malloc(lines * 64);
    if (fifo < 0 || !text)
        return 1;
    memset(text, 'x', lines * 64);
    for (int line = 0; line < lines; line++)
        text[line * 64 + 63] = '\n';
    uint64_t next = now(), longest = 0;
    for (int turn = 0; turn < turns; turn++) {
        struct timespec until = {next / 1000000000, next % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        next += 10000000;
        uint64_t begun = now();
        /* A write to a pipe may be partial once it has waited for room. */
        for (int written = 0; written < lines * 64;) {
            int more = write(1, text + written, lines * 64 - written);
            if (more < 0)
                return 1;
            written += more;
        }
        uint64_t took = now() - begun;
        if (took > longest)
            longest = took;
    }
    uint64_t report[2] = {longest, now()};
    if (write(fifo, report, sizeof report) != sizeof report)
        return 1;
    /* Ends with stdout's reader. */
    for (;;)
        pause();
}
