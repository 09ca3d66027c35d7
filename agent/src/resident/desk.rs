//! Where people postpone: a socket in `/run/akene` that everybody on the machine may speak to.
//!
//! Nothing that anybody sends is believed or kept. A connection counts as one wish to postpone, if something
//! is announced at that moment and its user is a person (the kernel says who it is); it ends the announcement, so
//! that the next wish counts only when the pause is over and people were told again. How often is written in the signed order. So
//! whoever abuses it can delay an order by what the administrator allowed, and by no more.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use akene_protocol::OrderId;
use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// The socket, below the root.
const SOCKET: &str = "run/akene/postpone";

/// How long a visitor may take.
const VISIT: Duration = Duration::from_secs(5);

/// Users below this are no people, but for root.
const FIRST_PERSON: u32 = 1000;

/// What is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announced {
    order: OrderId,
    left: u32,
    pause: u32,
    by: Option<u32>,
}

#[derive(Debug, Default)]
struct State {
    announced: Option<Announced>,
}

/// The desk.
#[derive(Clone, Debug, Default)]
pub struct Desk(Arc<(Mutex<State>, Condvar)>);

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the socket below `root` and answers whoever comes.
    pub fn open(&self, root: &Path) -> Result<()> {
        let path = root.join(SOCKET);
        let doing = || format!("opening {}", path.display());
        let dir = path.parent().with_context(doing)?;
        fs::create_dir_all(dir).with_context(doing)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).with_context(doing)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(doing),
            _ => {}
        }
        let listener = UnixListener::bind(&path).with_context(doing)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).with_context(doing)?;
        let desk = self.clone();
        let thread = std::thread::Builder::new().name("desk".into());
        thread
            .spawn(move || {
                for visitor in listener.incoming() {
                    if let Err(error) = visitor.map_err(Into::into).and_then(|v| desk.serve(v)) {
                        eprintln!("somebody who wants to postpone: {error:#}");
                        // Whatever is wrong with the socket, it is not to use the processor up.
                        std::thread::sleep(Duration::from_millis(200));
                    }
                }
            })
            .with_context(doing)?;
        Ok(())
    }

    fn serve(&self, mut visitor: UnixStream) -> Result<()> {
        visitor.set_write_timeout(Some(VISIT)).context("limiting a visit")?;
        let user = getsockopt(&visitor, PeerCredentials).context("asking who it is")?.uid();
        let answer = self.wish(user);
        visitor.write_all(answer.as_bytes()).context("answering")
    }

    /// Somebody wishes to postpone.
    fn wish(&self, user: u32) -> String {
        if user != 0 && (user < FIRST_PERSON || user >= u32::from(u16::MAX) - 1) {
            return "no: only people may postpone\n".into();
        }
        let mut state = self.state();
        match &mut state.announced {
            None => "no: nothing is announced that could be postponed\n".into(),
            Some(Announced { left: 0, .. }) => "no: it cannot be postponed any more\n".into(),
            Some(Announced { by: Some(_), .. }) => "yes: it is postponed already\n".into(),
            Some(announced) => {
                announced.by = Some(user);
                self.0.1.notify_all();
                let minutes = announced.pause.div_ceil(60);
                format!(
                    "yes: postponed by {minutes} minutes; that is possible {} more times\n",
                    announced.left - 1
                )
            }
        }
    }

    /// From now on people may postpone this, `left` times.
    pub fn announce(&self, order: OrderId, left: u32, pause: u32) {
        self.state().announced = Some(Announced { order, left, pause, by: None });
    }

    /// Who has postponed what was announced, if anybody has: then the announcement is over.
    pub fn postponed(&self, order: OrderId) -> Option<u32> {
        let mut state = self.state();
        let user = state.announced.filter(|a| a.order == order)?.by?;
        state.announced = None;
        Some(user)
    }

    /// Nothing is announced any more.
    pub fn close(&self) {
        self.state().announced = None;
    }

    /// Sleeps, or until somebody comes.
    pub fn sleep(&self, time: Duration) {
        let state = self.state();
        // Who came is asked for anyway: it does not matter what ended the sleep.
        drop(self.0.1.wait_timeout(state, time));
    }
}

/// `akene-agent postpone`: asks the resident agent of the system at `root`.
///
/// # Errors
/// When there is none, or it says no.
pub fn postpone(root: &Path) -> Result<String> {
    let path = root.join(SOCKET);
    let mut desk = UnixStream::connect(&path).with_context(|| {
        format!("asking the Akène agent of this computer at {}; is it running?", path.display())
    })?;
    desk.set_read_timeout(Some(VISIT)).context("limiting the wait for an answer")?;
    let mut answer = String::new();
    desk.read_to_string(&mut answer).context("reading the answer")?;
    match answer.trim().split_once(": ") {
        Some(("yes", text)) => Ok(text.to_owned()),
        Some(("no", text)) => bail!("{text}"),
        _ => bail!("the Akène agent of this computer gives no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_counts_once_an_announcement_and_only_of_people() {
        let (desk, order) = (Desk::default(), OrderId([1; 16]));
        assert!(desk.wish(1000).starts_with("no: nothing"));
        desk.announce(order, 2, 1800);
        assert!(desk.wish(33).starts_with("no: only people"), "a service");
        assert!(desk.wish(65_534).starts_with("no: only people"), "nobody");
        assert_eq!(desk.postponed(order), None);
        assert!(desk.wish(1000).contains("30 minutes; that is possible 1 more times"));
        assert!(desk.wish(1001).starts_with("yes: it is postponed already"));
        assert_eq!(desk.postponed(OrderId([2; 16])), None);
        assert_eq!(desk.postponed(order), Some(1000));
        assert!(desk.wish(1001).starts_with("no: nothing"), "not a second time");
        desk.announce(order, 0, 1800);
        assert!(desk.wish(1000).starts_with("no: it cannot"));
    }

    #[test]
    fn everybody_may_speak_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::default();
        desk.open(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        assert!(postpone(dir.path()).unwrap_err().to_string().contains("nothing is announced"));
        desk.announce(OrderId([1; 16]), 1, 60);
        assert!(postpone(dir.path()).unwrap().contains("postponed by 1 minutes"));
        // Opened again after a restart of the service.
        desk.open(dir.path()).unwrap();
    }
}
