//! The first process, and how the machine ends.
//!
//! The first process must never end (the kernel panics) and must never wait for one thing only. Its child
//! does the work; how that ends decides what happens to the machine:
//!
//! - it calls [`restart`] or [`power_off`]: done by the child itself, the system call ends the machine;
//! - it calls [`fatal`]: the reason stands on all consoles, the machine restarts after a while;
//! - it ends in any other way (a panic, a kill for lack of memory): the first process says so, the machine
//!   restarts after a while.
//!
//! "After a while" is long enough to read a message over the telephone, and not for ever: a machine whose
//! reinstall was ordered from far away has to come back to its old system with nobody touching it.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use akene_protocol::{Issue, Language};
use nix::sys::signal::Signal;

use super::console::Consoles;
use crate::report::words::{self, Text};
use crate::sys::kernel::{self, MachineEnd};

/// How long a fatal message stands before the machine restarts.
const TIME_TO_READ: Duration = Duration::from_secs(300);

/// Where a panic's text is left for the first process.
const LAST_WORDS: &str = "/run/akene/last-words";

static CONSOLES: OnceLock<Consoles> = OnceLock::new();

/// Whether this process is the first one of a live system.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Restarts the machine.
pub fn restart() -> ! {
    kernel::end_machine(MachineEnd::Restart)
}

/// Switches the machine off.
pub fn power_off() -> ! {
    kernel::end_machine(MachineEnd::PowerOff)
}

/// Says on every console why it cannot go on, waits long enough to be read, and restarts the machine.
pub fn fatal(issues: &[Issue]) -> ! {
    hold(&reasons(issues, language()))
}

/// Reasons in the words of a language, each with its code and, where the words are a translation, the message that
/// has the details.
fn reasons(issues: &[Issue], language: Language) -> String {
    let text = |text: Text| text.get(language);
    let mut lines = vec![String::new(), text(Text::CannotGoOn).into()];
    for issue in issues {
        lines.push(String::new());
        let translated = words::reason(issue, language);
        let (what, next) = translated.unwrap_or((&issue.message, &issue.next));
        lines.push(what.into());
        if translated.is_some() {
            lines.push(format!("{} {}", text(Text::Detail), issue.message));
        }
        if !next.is_empty() {
            lines.push(format!("{} {next}", text(Text::ToDo)));
        }
        lines.push(format!("{} {}", text(Text::Code), issue.code));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Shows a text, waits, restarts.
fn hold(text: &str) -> ! {
    let language = language();
    let words = |text: Text| text.get(language);
    say(text);
    say(&format!(
        "*** {} {} {} min. {}",
        words(Text::Restarts),
        words(Text::In),
        TIME_TO_READ.as_secs() / 60,
        words(Text::AtOnce)
    ));
    std::thread::sleep(TIME_TO_READ);
    restart()
}

fn say(text: &str) {
    CONSOLES.get_or_init(Consoles::find).say(language(), text);
}

/// The language of the stamp, read anew: the first process knows nothing of what the second has read, and what
/// went wrong may have done so before the initramfs was at its later place.
fn language() -> Language {
    let places = [Path::new(super::INITRAMFS), Path::new("/")];
    places
        .into_iter()
        .find_map(|place| super::read_stamp(place).ok())
        .map_or(Language::default(), |stamp| stamp.language)
}

/// From now on a panic leaves its text where the first process finds it. In the first process itself (it
/// has little to panic about) the machine is held and restarted right there.
pub fn prepare_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = format!("a defect in the installer: {panic}");
        if is_init() {
            hold(&text);
        }
        // The consoles get it from the first process, the kernel log may end up on a serial line too.
        std::fs::write(LAST_WORDS, &text).ok();
        std::fs::write("/dev/kmsg", format!("<2>akene: {text}\n")).ok();
    }));
}

/// Splits the process: returns in the child, the parent stays behind as the first process.
pub fn split() {
    match kernel::fork() {
        Ok(None) => {
            kernel::set_search_path();
            // Its own session, so that a terminal can be given to it and taken from it.
            if let Err(e) = nix::unistd::setsid() {
                say(&format!("akene: no session of its own: {e}"));
            }
        }
        Ok(Some(child)) => watch_over(child),
        Err(error) => fatal(&[Issue::new(
            "live-system-broken",
            "",
            format!("the installer cannot start: {error:#}"),
            "restart the computer",
        )]),
    }
}

fn watch_over(child: nix::unistd::Pid) -> ! {
    // Before there is a second thread: a signal that only it does not block would be lost in it.
    if let Err(error) = kernel::block_signals() {
        say(&format!("akene: {error:#}"));
    }
    std::thread::spawn(super::watchdog::feed);
    if let Err(error) = kernel::ctrl_alt_del_restarts(false) {
        say(&format!("akene: {error:#}"));
    }
    let ended = kernel::reap_until(child, |signal| {
        if signal == Signal::SIGINT {
            say(Text::KeysPressed.get(language()));
            restart();
        }
    });
    // Nobody is left to hear the signal: the kernel does it alone.
    kernel::ctrl_alt_del_restarts(true).ok();
    let how = match ended {
        Ok(status) => kernel::ending(status),
        Err(error) => format!("cannot be watched: {error:#}"),
    };
    let words = std::fs::read_to_string(LAST_WORDS).unwrap_or_default();
    let message = if words.is_empty() {
        format!("the installer {how}")
    } else {
        format!("the installer {how}: {words}")
    };
    fatal(&[Issue::new(
        "installer-ended",
        "",
        message,
        "note the text above; the computer starts again by itself",
    )])
}

/// Makes standard output and error the console, wherever they led before (a kernel without a working
/// `/dev/console` starts us with nothing open), and remembers the consoles for last words.
pub fn adopt_consoles(consoles: &Consoles) {
    CONSOLES.set(consoles.clone()).ok();
    let console = OpenOptions::new().read(true).write(true).open("/dev/console");
    let Ok(console) = console.or_else(|_| OpenOptions::new().read(true).write(true).open("/dev/null")) else {
        return;
    };
    // If one of these fails, output goes where it went before.
    nix::unistd::dup2_stdin(console.as_fd()).ok();
    nix::unistd::dup2_stdout(console.as_fd()).ok();
    nix::unistd::dup2_stderr(console.as_fd()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_in_the_language_of_the_medium_and_keeps_its_details() {
        let ended =
            Issue::new("installer-ended", "", "the installer was killed by SIGKILL", "note the text above");
        let french = reasons(std::slice::from_ref(&ended), Language::Fr);
        for part in [
            "L'installation ne peut pas continuer",
            "à cause d'un défaut",
            "SIGKILL",
            "notez",
            "installer-ended",
        ] {
            assert!(french.contains(part), "`{part}` is missing:\n{french}");
        }
        assert!(!french.contains("What to do") && !french.contains("note the text"), "{french}");
        let english = reasons(&[ended], Language::En);
        assert!(
            english.contains("\nWhat to do: note the text above\n") && !english.contains("notez"),
            "{english}"
        );
        // A reason without French words keeps its English ones below a French head.
        let other = reasons(&[Issue::new("odd", "", "something odd", "")], Language::Fr);
        assert!(
            other.contains("ne peut pas") && other.contains("something odd") && !other.contains("Que faire")
        );
    }

    #[test]
    fn where_there_is_no_stamp_it_is_english() {
        assert_eq!(language(), Language::En);
    }
}
