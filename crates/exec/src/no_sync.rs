//! Commands that never wait for a disk.
//!
//! dpkg and the scripts of packages ask for tens of thousands of syncs, which whoever installs a whole system does not
//! need: it writes everything out once, at the end. A filter in the kernel (seccomp) answers those system calls with
//! "done", for the command and everything it starts. Unlike a library that is put before every program
//! (libeatmydata), it costs the start of a program nothing, and has to be found nowhere.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// What is answered with "done".
const SYNCS: [libc::c_long; 6] = [
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_msync,
];

/// Whose numbers these are (`linux/audit.h`). A program of another architecture has other numbers: its calls pass.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

// Instructions of the filter (`linux/bpf_common.h`, `linux/seccomp.h`).
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const ANSWER: u16 = 0x06;
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ALLOW: u32 = 0x7fff_0000;
/// "Failed", with no error.
const DONE: u32 = 0x0005_0000;

fn filter() -> Vec<libc::sock_filter> {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let count = SYNCS.len() as u8;
    let mut steps = vec![
        step(LOAD, ARCHITECTURE_AT, 0, 0),
        step(IF_EQUAL, ARCHITECTURE, 0, count + 1),
        step(LOAD, NUMBER_AT, 0, 0),
    ];
    let left = (0..count).rev();
    steps.extend(SYNCS.iter().zip(left).map(|(number, left)| step(IF_EQUAL, *number as u32, left + 1, 0)));
    steps.extend([step(ANSWER, ALLOW, 0, 0), step(ANSWER, DONE, 0, 0)]);
    steps
}

/// Arranges for `command` to start without syncs. Where the kernel has no such filters, or they take a right we do not
/// have, it syncs as it likes, and is only slower.
#[expect(unsafe_code, reason = "pre_exec has no safe form, and a filter is handed to the kernel by address")]
pub(crate) fn before_exec(command: &mut Command) {
    let mut steps = filter();
    let install = move || -> std::io::Result<()> {
        let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        // SAFETY: the kernel copies the filter, which lives as long as this call, and changes nothing of ours.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        Ok(())
    };
    // SAFETY: the closure makes one system call on memory allocated beforehand, and allocates nothing.
    unsafe { command.pre_exec(install) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cmd, Runner, SystemRunner};

    #[test]
    fn syncs_are_answered_and_nothing_else_is() {
        // A filter takes a right that only root has; without it this shows nothing.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        // What cannot be synced: without the filter this is an error.
        let odd = "import os, sys; r, w = os.pipe(); os.fsync(r); os.fdatasync(w); open(sys.argv[1], 'w').write('x')";
        let cmd = Cmd::new("python3").args(["-c", odd]).arg(&file);
        assert!(SystemRunner.run(&cmd).is_err());
        SystemRunner.run(&cmd.clone().without_syncs()).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
        // Those it starts, too.
        let deep = Cmd::new("sh").args(["-c", "exec \"$@\"", "sh", "python3", "-c", odd]).arg(&file);
        SystemRunner.run(&deep.without_syncs()).unwrap();
    }

    #[test]
    fn every_jump_leads_to_the_right_answer() {
        let steps = filter();
        let (allow, done) = (steps.len() - 2, steps.len() - 1);
        let to = |at: usize, jump: u8| at + 1 + usize::from(jump);
        assert_eq!(to(1, steps[1].jf), allow);
        for (at, step) in steps.iter().enumerate().skip(3).take(SYNCS.len()) {
            assert_eq!((to(at, step.jt), step.jf), (done, 0));
        }
    }
}
