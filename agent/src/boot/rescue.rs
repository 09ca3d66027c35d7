//! A shell on every console, for a person who knows what to do with it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner};

use super::LiveSystem;
use super::console::Console;
use crate::report::words::{self, Text};

/// Runs shells until the machine is restarted, and tries to have a network for them. A shell that ends is
/// started again.
pub fn rescue(live: &LiveSystem, runner: &'static dyn Runner) -> ! {
    let language = live.language();
    let text = |text: Text| text.get(language);
    let say = |text: &str| live.consoles.say(language, text);
    say(&format!("\n{}\n{}\n", text(Text::Rescue), text(Text::RescueHelp)));
    for console in live.consoles.0.clone() {
        thread::spawn(move || shells(&console, runner));
    }
    // What is up stays up as long as this is kept.
    let network = crate::net::connect(live, runner, &mut |_| {});
    say(&match &network {
        Ok(online) => format!("\n{} {}", text(Text::Network), online.describe()),
        Err(issue) => match words::reason(issue, language) {
            Some((what, next)) => {
                format!("\n{} {what}. {} {next}\n{issue}", text(Text::Network), text(Text::ToDo))
            }
            None => format!("\n{} {issue}", text(Text::Network)),
        },
    });
    // Whoever saves files here may need days.
    let signs = super::watchdog::Signs::new();
    loop {
        if let Ok(signs) = &signs {
            signs.give().ok();
        }
        thread::sleep(Duration::from_secs(60));
    }
}

/// One shell after the other on one console.
fn shells(console: &Console, runner: &dyn Runner) -> ! {
    loop {
        let started = Instant::now();
        if let Err(error) = runner.run(&shell(console)) {
            eprintln!("akene: the shell on {} ended: {error:#}", console.path.display());
        }
        // A shell that cannot start must not fill the log.
        if started.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_secs(5));
        }
    }
}

/// busybox's getty opens the console, makes it the terminal of the shell (job control, Ctrl-C), and needs
/// no password file. It has to begin a session, which the leader of a process group (what every command of
/// ours is) may not: hence the shell that starts it and waits.
fn shell(console: &Console) -> Cmd {
    let shell =
        ["/bin/bash", "/usr/bin/bash"].into_iter().find(|s| Path::new(s).exists()).unwrap_or("/bin/sh");
    let line = console.path.strip_prefix("/dev").unwrap_or(&console.path);
    let (speed, kind) = if console.is_serial() { ("115200", "vt220") } else { ("38400", "linux") };
    Cmd::new("busybox")
        .args(["sh", "-c", "\"$@\"; exit $?", "rescue"])
        .args(["busybox", "getty", "-n", "-i", "-L", "-l", shell, speed])
        .arg(line)
        .arg(kind)
        .env("HOME", "/root")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .dir("/")
        // As good as never: the person decides how long it takes.
        .timeout(Duration::from_secs(10 * 365 * 24 * 3600))
}
