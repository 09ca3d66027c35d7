//! The way in for administrators while a machine waits for help: the live system's SSH server, asked by OpenSSH's client,
//! in a network and mount namespace of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use akene_agent::run::door::{self, Wanted};
use akene_exec::{Cmd, Runner, Running, Streams, SystemRunner};
use akene_tests::disks::{can_run, has, run};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const PORT: &str = "2222";

/// A key pair of this kind; gives the public line.
fn key(path: &Path, kind: &str) -> String {
    run("ssh-keygen", &["-q", "-N", "", "-t", kind, "-f", path.to_str().unwrap()]);
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}

fn ssh(dir: &Path, with: &str, command: &str) -> Cmd {
    let known = format!("UserKnownHostsFile={}", dir.join("known").display());
    Cmd::new("ssh")
        .args(["-p", PORT, "-o", &known, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"])
        .args(["-o", "IdentitiesOnly=yes", "-F", "none", "-i"])
        .arg(dir.join(with))
        .args(["root@127.0.0.1", command])
}

fn logs_in(dir: &Path, with: &str) -> Result<String, String> {
    let cmd = ssh(dir, with, "id -u; echo $HOME");
    SystemRunner.run(&cmd).map(|output| output.text()).map_err(|error| format!("{error:#}"))
}

/// How many programs hold a file, by what they were told.
fn holding(file: &Path) -> usize {
    let told =
        |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.ok()?.path().join("cmdline")).ok();
    let held = |line: &Vec<u8>| String::from_utf8_lossy(line).contains(file.to_str().unwrap());
    std::fs::read_dir("/proc").unwrap().filter_map(told).filter(held).count()
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/thread-self/mounts").unwrap()
}

/// Somebody who stays: in front, in the background and with a disk.
fn stays(dir: &Path) -> Running {
    let (held, script, disk) = (dir.join("held"), dir.join("script"), dir.join("a disk"));
    std::fs::write(&held, "").unwrap();
    std::fs::create_dir(&disk).unwrap();
    let hold = format!("tail -f '{}' </dev/null >/dev/null 2>&1", held.display());
    let text = format!(
        "mount -t tmpfs none '{0}'; mkdir '{0}/in'; mount -t tmpfs none '{0}/in'; cd '{0}/in'\nsetsid {hold} &\n{hold}\n",
        disk.display()
    );
    std::fs::write(&script, text).unwrap();
    let log = std::fs::File::create(dir.join("session")).unwrap();
    let client = ssh(dir, "admin", &format!("sh '{}'", script.display())).spawn(Streams::Log(log)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while holding(&held) < 2 {
        let said = std::fs::read_to_string(dir.join("session")).unwrap();
        assert!(Instant::now() < deadline, "{} of the session run: {said}", holding(&held));
        std::thread::sleep(Duration::from_millis(50));
    }
    client
}

#[test]
fn an_administrator_gets_in_and_nobody_else() {
    if !can_run() || !["dropbear", "dropbearconvert", "ssh", "ssh-keygen"].into_iter().all(has) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Whoever logs in gets root's home, which is this one here.
    mount(Some("home"), "/root", Some("tmpfs"), MsFlags::empty(), Some("mode=0700")).unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    run("ip", &["link", "set", "lo", "up"]);
    let [admin, _, host, rsa] =
        [("admin", "ed25519"), ("stranger", "ed25519"), ("host", "ed25519"), ("rsa", "rsa")]
            .map(|(name, kind)| key(&dir.path().join(name), kind));
    let private = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let wanted = Wanted {
        people: vec![admin.trim().to_owned()],
        host_keys: vec![private("host"), private("rsa"), b"PRIVATE KEY of no kind".to_vec()],
    };
    let place = dir.path().join("server");
    let open = || door::listen(&wanted, &place, Path::new("/root"), PORT.parse().unwrap(), &SystemRunner);
    let door = open().unwrap_or_else(|e| panic!("{e:#}"));
    // It shows itself as the machine's systems do, and says by what.
    let shown = |line: &str| run("ssh-keygen", &["-lf", dir.path().join(line).to_str().unwrap()]);
    for (name, fingerprint) in ["host.pub", "rsa.pub"].into_iter().zip(&door.fingerprints) {
        let sum = fingerprint.split(' ').nth(1).unwrap();
        assert!(shown(name).contains(sum), "{fingerprint} is not {}", shown(name));
    }
    assert_eq!(door.fingerprints.len(), 2);
    let known = format!("[127.0.0.1]:{PORT} {host}[127.0.0.1]:{PORT} {rsa}");
    std::fs::write(dir.path().join("known"), known).unwrap();
    assert_eq!(logs_in(dir.path(), "admin").unwrap(), "0\n/root");
    let refused = logs_in(dir.path(), "stranger").unwrap_err();
    assert!(refused.contains("Permission denied (publickey)"), "no password is asked for: {refused}");
    // A second one finds the place taken, and says so.
    let second = open().err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(second.contains("ended with"), "{second}");
    // Whoever is inside when it closes is sent out, with all they run and have mounted.
    let before = mounts();
    let mut client = stays(dir.path());
    assert_ne!(mounts(), before);
    door.close().unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(holding(&dir.path().join("held")), 0, "somebody works on where an installation begins");
    assert_eq!(mounts(), before);
    assert!(client.wait(Duration::from_secs(60)).unwrap().is_some(), "the client does not notice");
    let closed = logs_in(dir.path(), "admin").unwrap_err();
    assert!(closed.contains("refused"), "{closed}");
    // Without keys of its own a computer makes one.
    let new = Wanted { host_keys: vec![], ..wanted };
    let door = door::listen(
        &new,
        &dir.path().join("other"),
        Path::new("/root"),
        PORT.parse().unwrap(),
        &SystemRunner,
    );
    let door = door.unwrap_or_else(|e| panic!("{e:#}"));
    assert!(door.fingerprints[0].starts_with("ssh-ed25519 SHA256:"));
    let other = logs_in(dir.path(), "admin").unwrap_err();
    assert!(other.contains("Host key verification failed"), "{other}");
}
