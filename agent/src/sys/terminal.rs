//! What a terminal can show.
#![expect(unsafe_code, reason = "ioctl has no safe form")]

use std::os::fd::{AsFd, AsRawFd};

mod raw {
    use nix::libc::{TIOCGWINSZ, winsize};
    nix::ioctl_read_bad!(tiocgwinsz, TIOCGWINSZ, winsize);
}

/// Columns of a terminal. `None`: it is none, or one that does not say (a serial line says 0).
pub fn columns(terminal: impl AsFd) -> Option<usize> {
    size(terminal).map(|(columns, _)| usize::from(columns))
}

/// Columns and rows of a terminal. `None`: it is none, or one that does not say.
pub fn size(terminal: impl AsFd) -> Option<(u16, u16)> {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open as long as it is borrowed, and TIOCGWINSZ writes one `winsize`.
    unsafe { raw::tiocgwinsz(terminal.as_fd().as_raw_fd(), &mut size) }.ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_size_and_a_terminal_those_it_was_given() {
        assert_eq!(columns(std::fs::File::open("/dev/null").unwrap()), None);
        let size = nix::libc::winsize { ws_row: 40, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        assert_eq!((columns(&pty.slave), super::size(&pty.slave)), (Some(132), Some((132, 40))));
    }
}
