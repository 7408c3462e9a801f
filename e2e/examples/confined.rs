//! Runs a program as container runtimes do by default: system calls that are not on a list fail with EPERM.
//! `confined PROGRAM ARGUMENT...`
//!
//! The list is what containerd's default profile allows a container with `CAP_SYS_ADMIN`, and with no other of the
//! capabilities that add to it. Calls that came after Linux 6.0 are left out: older runtimes refuse them.

use std::{
    env::{args_os, consts::ARCH},
    os::unix::process::CommandExt,
    process::Command,
};

use anyhow::{Context, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Numbers of system calls by their names.
macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Files, folders and what is written about them.
const FILES: &[libc::c_long] = calls! {
    SYS_chdir SYS_close SYS_close_range SYS_copy_file_range SYS_dup SYS_dup3 SYS_faccessat SYS_faccessat2
    SYS_fadvise64 SYS_fallocate SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown
    SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr
    SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_getcwd SYS_getdents64 SYS_getxattr
    SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_ioctl SYS_lgetxattr SYS_linkat
    SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_mkdirat SYS_mknodat
    SYS_name_to_handle_at SYS_newfstatat SYS_openat SYS_openat2 SYS_pread64 SYS_preadv SYS_preadv2
    SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_removexattr
    SYS_renameat SYS_renameat2 SYS_sendfile SYS_setxattr SYS_splice SYS_statfs SYS_statx SYS_symlinkat
    SYS_sync SYS_sync_file_range SYS_syncfs SYS_tee SYS_truncate SYS_umask SYS_unlinkat SYS_utimensat
    SYS_vmsplice SYS_write SYS_writev
};

/// Waiting for what happens, and reading and writing in the background.
const EVENTS: &[libc::c_long] = calls! {
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_io_cancel
    SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit SYS_pipe2 SYS_ppoll SYS_pselect6
    SYS_signalfd4
};

/// Sockets but how they are made, which has a rule of its own.
const SOCKETS: &[libc::c_long] = calls! {
    SYS_accept SYS_accept4 SYS_bind SYS_connect SYS_getpeername SYS_getsockname SYS_getsockopt SYS_listen
    SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setsockopt SYS_shutdown
    SYS_socketpair
};

/// Memory.
const MEMORY: &[libc::c_long] = calls! {
    SYS_brk SYS_madvise SYS_membarrier SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mlock SYS_mlock2
    SYS_mlockall SYS_mmap SYS_mprotect SYS_mremap SYS_msync SYS_munlock SYS_munlockall SYS_munmap
    SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_process_mrelease SYS_remap_file_pages SYS_shmat
    SYS_shmctl SYS_shmdt SYS_shmget
};

/// Processes, threads, their rights and their places on processors.
const PROCESSES: &[libc::c_long] = calls! {
    SYS_capget SYS_capset SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_futex SYS_futex_waitv
    SYS_get_robust_list SYS_getcpu SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getpgid SYS_getpid
    SYS_getppid SYS_getpriority SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid
    SYS_gettid SYS_getuid SYS_ioprio_get SYS_ioprio_set SYS_landlock_add_rule SYS_landlock_create_ruleset
    SYS_landlock_restrict_self SYS_prctl SYS_prlimit64 SYS_process_vm_readv SYS_process_vm_writev
    SYS_ptrace SYS_rseq SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity
    SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval
    SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield
    SYS_seccomp SYS_set_robust_list SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups
    SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit
    SYS_setsid SYS_setuid SYS_wait4 SYS_waitid
};

/// Signals and messages between processes.
const SIGNALS: &[libc::c_long] = calls! {
    SYS_kill SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend
    SYS_mq_unlink SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_pidfd_open SYS_pidfd_send_signal
    SYS_restart_syscall SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo
    SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_semctl SYS_semget
    SYS_semop SYS_semtimedop SYS_sigaltstack SYS_tgkill SYS_tkill
};

/// Time, chance and what the machine is.
const MACHINE: &[libc::c_long] = calls! {
    SYS_adjtimex SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_getitimer
    SYS_getrandom SYS_gettimeofday SYS_nanosleep SYS_setitimer SYS_sysinfo SYS_timer_create
    SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create
    SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_uname
};

/// Allowed with `CAP_SYS_ADMIN` alone.
const ADMINISTRATION: &[libc::c_long] = calls! {
    SYS_bpf SYS_clone SYS_clone3 SYS_fanotify_init SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick
    SYS_lookup_dcookie SYS_mount SYS_mount_setattr SYS_move_mount SYS_open_tree SYS_perf_event_open
    SYS_quotactl SYS_quotactl_fd SYS_setdomainname SYS_sethostname SYS_setns SYS_syslog SYS_umount2
    SYS_unshare
};

/// Earlier forms, which only this processor has.
#[cfg(target_arch = "x86_64")]
const EARLIER: &[libc::c_long] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat
    SYS_get_thread_area SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir
    SYS_mknod SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_renameat
    SYS_rmdir SYS_select SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink
    SYS_utime SYS_utimes SYS_vfork
};

/// Others have none.
#[cfg(not(target_arch = "x86_64"))]
const EARLIER: &[libc::c_long] = &[];

const ALLOWED: [&[libc::c_long]; 9] =
    [FILES, EVENTS, SOCKETS, MEMORY, PROCESSES, SIGNALS, MACHINE, ADMINISTRATION, EARLIER];

/// Families of addresses that no socket may have.
const REFUSED: [libc::c_int; 2] = [libc::AF_ALG, libc::AF_VSOCK];

/// What `personality` may be asked for: Linux, 32 bits, an old version number, both, and what there is.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x20000, 0x20008, u32::MAX];

fn first(operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)?)
}

fn profile() -> Result<BpfProgram> {
    let other = |family: &libc::c_int| first(SeccompCmpOp::Ne, u64::try_from(*family)?);
    let socket = SeccompRule::new(REFUSED.iter().map(other).collect::<Result<_>>()?)?;
    let one_of = |which: u32| Ok(SeccompRule::new(vec![first(SeccompCmpOp::Eq, which.into())?])?);
    let personality = PERSONALITIES.into_iter().map(one_of).collect::<Result<_>>()?;
    let whole = ALLOWED.into_iter().flatten().map(|call| (*call, Vec::new()));
    let limited = [(libc::SYS_socket, vec![socket]), (libc::SYS_personality, personality)];
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let rules = whole.chain(limited).collect();
    Ok(SeccompFilter::new(rules, refusal, SeccompAction::Allow, ARCH.try_into()?)?.try_into()?)
}

fn main() -> Result<()> {
    let mut words = args_os().skip(1);
    let program = words.next().context("say what to run: confined PROGRAM ARGUMENT...")?;
    apply_filter(&profile()?)?;
    let error = Command::new(&program).args(words).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
