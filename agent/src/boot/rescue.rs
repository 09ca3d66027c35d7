//! The rescue menu on every console; a shell is one choice of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner};
use akene_protocol::Language;
use anyhow::{Context, Result};

use super::LiveSystem;
use super::console::Console;
use crate::report::words::{self, Text};
use crate::rescue::cmd::NEWS;

/// Where what a console runs is written to.
const SCRIPTS: &str = "/run/akene";

/// Runs menus until the machine is restarted, and tries to have a network for the shells. A menu that ends is
/// started again.
pub fn rescue(live: &LiveSystem, runner: &'static dyn Runner) -> ! {
    let language = live.language();
    let text = |text: Text| text.get(language);
    for console in live.consoles.0.clone() {
        thread::spawn(move || menus(&console, language, runner));
    }
    // What is up stays up as long as this is kept.
    let network = crate::net::connect(live, runner, &mut |_| {});
    let news = match &network {
        Ok(online) => format!("{} {}", text(Text::Network), online.describe()),
        Err(issue) => match words::reason(issue, language) {
            Some((what, next)) => {
                format!("{} {what}. {} {next}\n{issue}", text(Text::Network), text(Text::ToDo))
            }
            None => format!("{} {issue}", text(Text::Network)),
        },
    };
    // Shown over the menu, so that it does not come in between while somebody types.
    if let Err(error) = std::fs::write(NEWS, &news) {
        live.consoles.say(language, &format!("{news}\n{NEWS}: {error}"));
    }
    // Whoever saves files here may need days.
    let signs = super::watchdog::Signs::new();
    loop {
        if let Ok(signs) = &signs {
            signs.give().ok();
        }
        thread::sleep(Duration::from_secs(60));
    }
}

/// One menu after the other on one console.
fn menus(console: &Console, language: Language, runner: &dyn Runner) -> ! {
    loop {
        let started = Instant::now();
        let ended = script(console, language).and_then(|script| runner.run(&session(console, &script)));
        if let Err(error) = ended {
            eprintln!("akene: the menu on {} ended: {error:#}", console.path.display());
        }
        // One that cannot start must not fill the log.
        if started.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_secs(5));
        }
    }
}

/// Writes what a console runs: the menu, and then the shell if one was chosen there. getty takes a program without
/// arguments.
fn script(console: &Console, language: Language) -> Result<PathBuf> {
    let program = super::program().context("finding this program")?;
    let name = console.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let path = Path::new(SCRIPTS).join(format!("rescue-{name}"));
    let plain = if console.is_serial() { " --plain" } else { "" };
    let text = script_text(&program, &path.with_extension("shell"), language, plain);
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).with_context(|| format!("setting up {}", path.display()))?;
    Ok(path)
}

fn script_text(program: &Path, at: &Path, language: Language, plain: &str) -> String {
    let shell =
        ["/bin/bash", "/usr/bin/bash"].into_iter().find(|s| Path::new(s).exists()).unwrap_or("/bin/sh");
    let (program, at) = (program.display(), at.display());
    format!(
        "#!/bin/sh\nrm -f {at}\n{program} rescue --language {language}{plain} --shell-at {at}\n\
         [ -s {at} ] || exit 0\ncd \"$(cat {at})\"\nexec {shell}\n",
        language = language.tag()
    )
}

/// busybox's getty opens the console, makes it the terminal of the menu (job control, Ctrl-C), and needs
/// no password file. It has to begin a session, which the leader of a process group (what every command of
/// ours is) may not: hence the shell that starts it and waits.
fn session(console: &Console, script: &Path) -> Cmd {
    let line = console.path.strip_prefix("/dev").unwrap_or(&console.path);
    let (speed, kind) = if console.is_serial() { ("115200", "vt220") } else { ("38400", "linux") };
    Cmd::new("busybox")
        .args(["sh", "-c", "\"$@\"; exit $?", "rescue"])
        .args(["busybox", "getty", "-n", "-i", "-L", "-l"])
        .arg(script)
        .arg(speed)
        .arg(line)
        .arg(kind)
        .env("HOME", "/root")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .dir("/")
        // As good as never: the person decides how long it takes.
        .timeout(Duration::from_secs(10 * 365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::SystemRunner;

    /// The script as a console runs it, with a menu that writes what it was told to.
    #[test]
    fn a_shell_begins_where_the_menu_says_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let (menu, at, script) = (dir.path().join("menu"), dir.path().join("at"), dir.path().join("script"));
        let run = |chosen: &str| {
            let text = format!(
                "#!/bin/sh\n[ \"$1 $2 $3 $4\" = 'rescue --language fr --plain' ] || exit 9\n{chosen}\n"
            );
            std::fs::write(&menu, text).unwrap();
            std::fs::set_permissions(&menu, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::write(&script, script_text(&menu, &at, Language::Fr, " --plain")).unwrap();
            SystemRunner.run(&Cmd::new("sh").arg(&script).stdin("pwd\n")).unwrap().text()
        };
        assert_eq!(run("printf /usr/lib > \"$6\""), "/usr/lib");
        assert_eq!(run("exit 1"), "");
    }
}
