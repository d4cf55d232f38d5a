/* The benchmark's worker: writes the time of its start to the FIFO in its first argument, holds the FIFO in the second
   one open for as long as it lives, and waits for a signal. */
#include <fcntl.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

struct stamp {
    uint64_t pid;
    uint64_t nanoseconds; /* CLOCK_MONOTONIC, the same for all processes of a machine */
};

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct stamp stamp = {getpid(), now.tv_sec * 1000000000ull + now.tv_nsec};
    int fifo = argc == 3 ? open(argv[1], O_WRONLY) : -1;
    /* A write of so few bytes to a pipe is atomic (pipe(7)). */
    if (fifo < 0 || open(argv[2], O_WRONLY) < 0 || write(fifo, &stamp, sizeof stamp) != sizeof stamp)
        return 1;
    close(fifo);
    for (;;)
        pause();
}
