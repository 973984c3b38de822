/* nosync PROGRAM ARGS...: runs a program whose syncs do nothing, and say that they did.
 *
 *   cc -O2 -o nosync nosync.c
 *
 * For the counter-check of the power cut loops: what passes with it as well proves nothing. It is a
 * seccomp filter, so it reaches static binaries, children and raw system calls too. */

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SAYS_DONE(call) \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), \
  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0)

int main(int argc, char **argv) {
  struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    SAYS_DONE(SYS_fsync),
    SAYS_DONE(SYS_fdatasync),
    SAYS_DONE(SYS_syncfs),
    SAYS_DONE(SYS_sync),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (argc < 2) return fprintf(stderr, "usage: nosync PROGRAM ARGS...\n"), 2;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
    return perror("nosync"), 2;
  execvp(argv[1], argv + 1);
  return perror(argv[1]), 127;
}
