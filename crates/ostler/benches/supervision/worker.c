/* The benchmark's worker: stamps its start into the FIFO that its first argument names, keeps the second one open for as long as
   it lives, and waits for a signal. */
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
    /* So few bytes are written at once or not at all (pipe(7)). */
    if (fifo < 0 || open(argv[2], O_WRONLY) < 0 || write(fifo, &stamp, sizeof stamp) != sizeof stamp)
        return 1;
    close(fifo);
    for (;;)
        pause();
}
