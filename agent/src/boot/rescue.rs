//! The rescue menu on every console; a shell is one choice of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner};
use akene_protocol::Language;
use anyhow::{Context, Result};

use super::LiveSystem;
use super::console::Console;
use super::keyboard::Keyboard;
use crate::report::words::{self, Text};
use crate::rescue::cmd::NEWS;

/// Where what a console runs is written to.
const SCRIPTS: &str = "/run/akene";

/// Runs menus until the machine is restarted, and tries to have a network for the shells. A menu that ends is
/// started again.
pub fn rescue(live: &LiveSystem, runner: &'static dyn Runner) -> ! {
    let language = live.language();
    let text = |text: Text| text.get(language);
    let mut keyboard = live.keyboard(runner);
    keyboard.speak(language);
    let trouble = keyboard.complaint();
    let keyboard = Arc::new(Mutex::new(keyboard));
    for console in live.consoles.0.clone() {
        let keyboard = Arc::clone(&keyboard);
        thread::spawn(move || menus(&console, language, &keyboard, runner));
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
    let news = trouble.map_or_else(|| news.clone(), |error| format!("{news}\n{error:#}"));
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
fn menus(
    console: &Console,
    mut language: Language,
    keyboard: &Mutex<Keyboard>,
    runner: &'static dyn Runner,
) -> ! {
    loop {
        let started = Instant::now();
        let ended = script(console, language).and_then(|script| runner.run(&session(console, &script)));
        if let Err(error) = ended {
            eprintln!("akene: the menu on {} ended: {error:#}", console.path.display());
        }
        if let Some(chosen) = chosen(&files(console).language) {
            language = chosen;
            if !console.is_serial() {
                speak(keyboard, language);
            }
            continue;
        }
        // One that cannot start must not fill the log.
        if started.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_secs(5));
        }
    }
}

/// Has the keyboard read as that of this language.
fn speak(keyboard: &Mutex<Keyboard>, language: Language) {
    let mut keyboard = keyboard.lock().unwrap_or_else(PoisonError::into_inner);
    keyboard.speak(language);
    if let Some(error) = keyboard.complaint() {
        eprintln!("akene: {error:#}");
    }
}

/// The language that was chosen in the menu, once.
fn chosen(file: &Path) -> Option<Language> {
    let text = std::fs::read_to_string(file).ok()?;
    // Where it cannot be removed the menu goes on in this language for ever, which harms nobody.
    std::fs::remove_file(file).ok();
    text.parse().ok()
}

/// What a console's menus are run by, and what they leave.
struct Files {
    script: PathBuf,
    shell: PathBuf,
    language: PathBuf,
}

fn files(console: &Console) -> Files {
    let name = console.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let script = Path::new(SCRIPTS).join(format!("rescue-{name}"));
    Files { shell: script.with_extension("shell"), language: script.with_extension("language"), script }
}

/// Writes what a console runs: the menu, and then the shell if one was chosen there. getty takes a program without
/// arguments.
fn script(console: &Console, language: Language) -> Result<PathBuf> {
    let program = super::program().context("finding this program")?;
    let files = files(console);
    let plain = if console.is_serial() { " --plain" } else { "" };
    let text = script_text(&program, &files, language, plain);
    let path = files.script;
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).with_context(|| format!("setting up {}", path.display()))?;
    Ok(path)
}

fn script_text(program: &Path, files: &Files, language: Language, plain: &str) -> String {
    let shell =
        ["/bin/bash", "/usr/bin/bash"].into_iter().find(|s| Path::new(s).exists()).unwrap_or("/bin/sh");
    let (program, at, spoken) = (program.display(), files.shell.display(), files.language.display());
    format!(
        "#!/bin/sh\nrm -f {at}\n{program} rescue --language {language}{plain} --shell-at {at} --language-at {spoken}\n\
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

    /// The script as a console runs it, with a menu that does what it was told to.
    #[test]
    fn a_shell_begins_where_the_menu_says_and_only_then_and_a_language_is_heard_once() {
        let dir = tempfile::tempdir().unwrap();
        let menu = dir.path().join("menu");
        let file = |name: &str| dir.path().join(name);
        let files = Files { script: file("script"), shell: file("shell"), language: file("language") };
        let run = |does: &str| {
            let text = format!(
                "#!/bin/sh\n[ \"$1 $2 $3 $4\" = 'rescue --language fr --plain' ] || exit 9\n{does}\n"
            );
            std::fs::write(&menu, text).unwrap();
            std::fs::set_permissions(&menu, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::write(&files.script, script_text(&menu, &files, Language::Fr, " --plain")).unwrap();
            SystemRunner.run(&Cmd::new("sh").arg(&files.script).stdin("pwd\n")).unwrap().text()
        };
        assert_eq!(run("printf /usr/lib > \"$6\""), "/usr/lib");
        assert_eq!(run("exit 1"), "");
        assert_eq!(chosen(&files.language), None);
        assert_eq!(run("printf en > \"$8\""), "");
        assert_eq!((chosen(&files.language), chosen(&files.language)), (Some(Language::En), None));
    }
}
