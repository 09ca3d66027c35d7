//! Who is logged in, whether anybody uses the machine, and telling them what is about to happen.
//!
//! *Nobody uses it* means: no session of a person is open, or each has been idle for a quarter of an hour, or is
//! locked. That is logind's word: of a terminal and of SSH it knows when a key was pressed last, of a desktop what the
//! desktop tells it. A desktop that tells it nothing counts as used as long as somebody is logged in. Where logind does not
//! answer, somebody may be there.
//!
//! People are told on every terminal (`wall`), and on each desktop by the notification service of its session bus.

use std::fs;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::Language;
use anyhow::{Context, Result};
use jiff::Timestamp;

/// After this long without a key or a movement, a session counts as left.
const IDLE: Duration = Duration::from_secs(15 * 60);

const LIMIT: Duration = Duration::from_secs(15);

/// A session of a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Their name.
    pub name: String,
    /// Their number.
    pub user: u32,
    graphical: bool,
    locked: bool,
    idle_since: Option<Timestamp>,
}

/// The sessions of people. `None`: nobody knows.
pub fn sessions(runner: &dyn Runner) -> Option<Vec<Session>> {
    match list(runner) {
        Ok(sessions) => Some(sessions),
        Err(error) => {
            eprintln!("who is logged in is not known: {error:#}");
            None
        }
    }
}

fn list(runner: &dyn Runner) -> Result<Vec<Session>> {
    let ctl = || Cmd::new("loginctl").arg("--no-pager").timeout(LIMIT);
    let text = runner.run(&ctl().args(["--no-legend", "list-sessions"])).context("listing sessions")?.text();
    let mut sessions = Vec::new();
    for id in text.lines().filter_map(|line| line.split_whitespace().next()) {
        let properties = "Name,User,Class,State,Type,IdleHint,IdleSinceHint,LockedHint";
        let cmd = ctl().args(["show-session", id, "--property", properties]);
        match runner.run(&cmd) {
            Ok(shown) => sessions.extend(read(&shown.text())),
            Err(error) => {
                // A session may end between the two questions. One that is there still is somebody's.
                let again =
                    runner.run(&ctl().args(["--no-legend", "list-sessions"])).context("listing sessions")?;
                if again.text().lines().any(|line| line.split_whitespace().next() == Some(id)) {
                    return Err(error).with_context(|| format!("looking at the session {id}"));
                }
            }
        }
    }
    Ok(sessions)
}

/// What `loginctl show-session` prints; `None` for what is no person's.
fn read(text: &str) -> Option<Session> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if !matches!(value("Class")?, "user" | "user-early" | "user-light") || value("State") == Some("closing") {
        return None;
    }
    let since =
        value("IdleSinceHint").and_then(|n| n.parse().ok()).and_then(|n| Timestamp::from_microsecond(n).ok());
    Some(Session {
        name: value("Name")?.to_owned(),
        user: value("User")?.parse().ok()?,
        graphical: matches!(value("Type"), Some("x11" | "wayland" | "mir")),
        locked: value("LockedHint") == Some("yes"),
        idle_since: since.filter(|_| value("IdleHint") == Some("yes")),
    })
}

/// Whether nobody uses the machine.
pub fn is_idle(sessions: Option<&[Session]>, now: Timestamp) -> bool {
    let left = |s: &Session| {
        s.locked
            || s.idle_since
                .is_some_and(|since| now.duration_since(since).unsigned_abs() >= IDLE && since < now)
    };
    sessions.is_some_and(|sessions| sessions.iter().all(left))
}

/// The language people of this system read, as its settings say.
pub fn language(root: &Path) -> Language {
    let text = ["etc/default/locale", "etc/locale.conf"]
        .iter()
        .find_map(|path| fs::read_to_string(root.join(path)).ok());
    let text = text.unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim_matches('"'))
    };
    value("LC_MESSAGES").or_else(|| value("LANG")).map(Language::of_locale).unwrap_or_default()
}

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A reinstallation that keeps people's files.
    Reinstall,
    /// One that does not.
    Wipe,
    /// A restart.
    Reboot,
}

/// What people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It begins after these seconds, and may be postponed that often.
    Begins(What, u32, u32),
    /// It was postponed by these seconds.
    Postponed(u32),
    /// It was taken back.
    Cancelled,
    /// It begins now.
    Now(What),
}

/// Minutes or seconds for people.
fn time(seconds: u32, language: Language) -> String {
    match (seconds, language) {
        (0..120, Language::En) => format!("{seconds} seconds"),
        (0..120, Language::Fr) => format!("{seconds} secondes"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    }
}

impl Notice {
    /// The text.
    pub fn words(self, language: Language) -> String {
        let fr = language == Language::Fr;
        let what = |what: What| match (what, fr) {
            (What::Reinstall, false) => {
                "This computer is going to be reinstalled. Your files are kept, open work is not."
            }
            (What::Reinstall, true) => {
                "Cet ordinateur va être réinstallé. Vos fichiers sont conservés, pas le travail en cours."
            }
            (What::Wipe, false) => "This computer is going to be reinstalled and ALL FILES ON IT ARE ERASED.",
            (What::Wipe, true) => "Cet ordinateur va être réinstallé et TOUS SES FICHIERS SERONT EFFACÉS.",
            (What::Reboot, false) => "This computer is going to be restarted. Open work is lost.",
            (What::Reboot, true) => "Cet ordinateur va redémarrer. Le travail en cours sera perdu.",
        };
        match self {
            Notice::Begins(which, seconds, left) => {
                let time = time(seconds, language);
                let mut text = match fr {
                    false => format!("{} It begins in {time}: save your work.", what(which)),
                    true => format!("{} Cela commence dans {time} : enregistrez votre travail.", what(which)),
                };
                if left > 0 {
                    text += &match fr {
                        false => format!(" To postpone it ({left} left): akene-agent postpone"),
                        true => format!(
                            " Pour le remettre à plus tard (encore {left} fois) : akene-agent postpone"
                        ),
                    };
                }
                text
            }
            Notice::Postponed(seconds) => match fr {
                false => format!("Postponed by {}.", time(seconds, language)),
                true => format!("Remis à plus tard ({}).", time(seconds, language)),
            },
            Notice::Cancelled => match fr {
                false => "It does not happen: the administrator took it back.".into(),
                true => "C'est annulé par l'administrateur.".into(),
            },
            Notice::Now(which) => match fr {
                false => format!("{} It begins now.", what(which)),
                true => format!("{} Cela commence maintenant.", what(which)),
            },
        }
    }
}

/// Tells everybody who is logged in, as well as that can be done.
pub fn tell(runner: &dyn Runner, root: &Path, sessions: Option<&[Session]>, notice: Notice) {
    let text = notice.words(language(root));
    let wall = Cmd::new("wall").stdin(format!("{text}\n")).env("LC_ALL", "C.UTF-8").timeout(LIMIT);
    if let Err(error) = runner.run(&wall) {
        eprintln!("telling people on terminals: {error:#}");
    }
    let mut told = Vec::new();
    for session in sessions.unwrap_or_default().iter().filter(|s| s.graphical) {
        let bus = root.join(format!("run/user/{}/bus", session.user));
        if told.contains(&session.user) || !bus.exists() {
            continue;
        }
        told.push(session.user);
        let cmd = Cmd::new("runuser").args(["-u", &session.name, "--", "busctl"]);
        let cmd = cmd.arg(format!("--address=unix:path={}", bus.display()));
        let cmd = cmd.args(["call", "org.freedesktop.Notifications", "/org/freedesktop/Notifications"]);
        let cmd = cmd.args(["org.freedesktop.Notifications", "Notify", "susssasa{sv}i"]);
        // Title, text, no buttons, urgent, and it stays until it is closed.
        let cmd =
            cmd.args(["Akène", "0", "system-reboot", "Akène", &text, "0", "1", "urgency", "y", "2", "0"]);
        if let Err(error) = runner.run(&cmd.timeout(LIMIT)) {
            eprintln!("telling {} on their desktop: {error:#}", session.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(more: &str) -> Option<Session> {
        read(&format!("Name=marie\nUser=1000\nClass=user\nState=active\nType=tty\n{more}"))
    }

    #[test]
    fn idle_is_what_it_says() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let since = |minutes: i64| {
            let at = now - jiff::SignedDuration::from_mins(minutes);
            format!("IdleHint=yes\nIdleSinceHint={}\n", at.as_microsecond())
        };
        let idle = |texts: &[String]| {
            let sessions: Vec<Session> = texts.iter().filter_map(|t| session(t)).collect();
            is_idle(Some(&sessions), now)
        };
        assert!(idle(&[]), "nobody is there");
        assert!(!is_idle(None, now), "nobody knows");
        assert!(!idle(&["IdleHint=no\n".into()]));
        assert!(!idle(&[since(14)]));
        assert!(idle(&[since(16)]));
        assert!(idle(&["IdleHint=no\nLockedHint=yes\n".into()]));
        assert!(!idle(&[since(16), "IdleHint=no\n".into()]));
        // A clock that was set back is no reason to throw people out.
        assert!(!idle(&[since(-600)]));
    }

    /// Answers as often as it is asked, and fails to show a session.
    struct Slow(std::sync::atomic::AtomicU32, &'static str);
    impl Runner for Slow {
        fn run(&self, cmd: &Cmd) -> Result<akene_exec::Output> {
            if cmd.to_string().contains("show-session") {
                anyhow::bail!("too slow");
            }
            let first = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            let list = if first { "2 1000 marie seat0 tty7\n" } else { self.1 };
            akene_exec::RecordingRunner::default().answer("", list).run(cmd)
        }
        fn run_lines(&self, cmd: &Cmd, _: &mut dyn FnMut(&str)) -> Result<akene_exec::Output> {
            self.run(cmd)
        }
    }

    #[test]
    fn a_session_that_cannot_be_looked_at_is_somebodys() {
        let sessions = |then| sessions(&Slow(Default::default(), then));
        assert!(sessions("2 1000 marie seat0 tty7\n").is_none(), "nobody knows");
        assert_eq!(sessions("").unwrap().len(), 0, "it has ended meanwhile");
    }

    #[test]
    fn only_people_count() {
        assert_eq!(session("").unwrap().name, "marie");
        for other in ["greeter", "manager", "background", "lock-screen", "user-incomplete"] {
            assert_eq!(
                read(&format!("Name=lightdm\nUser=110\nClass={other}\nState=active\n")),
                None,
                "{other}"
            );
        }
        assert_eq!(read("Name=marie\nUser=1000\nClass=user\nState=closing\n"), None);
    }

    #[test]
    fn people_are_told_in_their_language_what_they_can_do() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(language(dir.path()), Language::En);
        fs::create_dir_all(dir.path().join("etc/default")).unwrap();
        fs::write(dir.path().join("etc/default/locale"), "LANG=\"fr_FR.UTF-8\"\n").unwrap();
        assert_eq!(language(dir.path()), Language::Fr);
        let text = Notice::Begins(What::Reinstall, 600, 2).words(Language::Fr);
        assert!(
            text.contains("10 minutes") && text.contains("encore 2 fois") && text.contains("conservés"),
            "{text}"
        );
        let text = Notice::Begins(What::Wipe, 600, 0).words(Language::En);
        assert!(text.contains("ERASED") && !text.contains("postpone"), "{text}");
    }
}
