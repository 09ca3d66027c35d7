//! The administrator's way in while a machine waits for help: an SSH server in the live system.
//!
//! It opens to those whom the machine's own profile lets in: where the last signed profile on its boot partition installs an
//! SSH server, the keys of its administrators (root's, and of users who may use sudo) open root's account here. Keys
//! alone: no password is asked for, nothing is forwarded. The computer shows itself by the keys its systems are known
//! by, where they are kept; else by one made for this start. It closes as soon as an installation goes on, for those who are
//! inside, too ([`super::sessions`]).

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, Runner, Running, Streams};
use akene_protocol::{Bundle, Envelope, Inventory, PublicKey, Resolved, Sha256};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use nix::mount::{MsFlags, mount};

use super::resume;
use super::sessions::Sessions;
use crate::fetch::known;
use crate::net::Online;
use crate::report::Reporter;
use crate::target::host_keys;

/// Where SSH is expected.
pub const PORT: u16 = 22;

/// Larger ones are no profiles.
const LARGEST: u64 = 64 << 20;

/// An SSH server that runs.
pub struct Door {
    /// Those who logged in, and the server itself.
    sessions: Sessions,
    /// It ends with this.
    _running: Running,
    /// `ssh-ed25519 SHA256:…`, one for each key the computer shows.
    pub fingerprints: Vec<String>,
}

impl Door {
    /// Closes it. Whoever is inside is sent out, with all they run and have mounted.
    ///
    /// # Errors
    /// Something of theirs stays.
    pub fn close(self) -> Result<()> {
        self.sessions.end()
    }
}

/// What it opens to and shows.
#[derive(Debug)]
pub struct Wanted {
    /// Lines for `authorized_keys`.
    pub people: Vec<String>,
    /// Private keys in OpenSSH's form, which the computer is known by.
    pub host_keys: Vec<Vec<u8>>,
}

/// What the boot partitions of this machine permit. `None`: nobody is to be let in. What is plugged in permits nothing: an
/// older profile that was signed once would let its people in.
pub fn wanted(inventory: &Inventory, key: &PublicKey, reporter: &Reporter) -> Option<Wanted> {
    known::own_boot_partitions(inventory).find_map(|node| {
        let seen = known::look(&node, |boot| {
            let people = resolved(boot, inventory, key)?.map_or_else(Vec::new, |profile| keys_of(&profile));
            Ok(Wanted { people, host_keys: host_keys::on_boot(boot)? })
        });
        match seen {
            Ok(wanted) => Some(wanted).filter(|wanted| !wanted.people.is_empty()),
            Err(error) => {
                reporter.debug(format!("looking on {} for who may log in: {error:#}", node.display()));
                None
            }
        }
    })
}

/// The last profile that was signed for a machine: the one an installation was begun with, else the one it has.
fn resolved(boot: &Path, inventory: &Inventory, key: &PublicKey) -> Result<Option<Resolved>> {
    let envelope = match resume::read(boot) {
        Ok(resume) => resume.into_profile(),
        Err(_) => {
            let path = boot.join("akene/profile.json");
            let Ok(file) = File::open(&path) else { return Ok(None) };
            let mut text = Vec::new();
            file.take(LARGEST)
                .read_to_end(&mut text)
                .with_context(|| format!("reading {}", path.display()))?;
            Envelope::parse(&text).context("reading the profile")?
        }
    };
    let bundle: Bundle = envelope.open(key).context("opening the profile")?;
    Ok(Some(akene_protocol::resolve::resolve(&bundle, inventory, None)?))
}

/// Keys of those who are root on the machine that this profile makes, if it lets anybody in from outside.
fn keys_of(profile: &Resolved) -> Vec<String> {
    if !profile.ssh_server {
        return Vec::new();
    }
    let administrators = profile.users.iter().filter(|user| user.sudo).flat_map(|user| &user.authorized_keys);
    profile.root_keys.iter().chain(administrators).map(|key| key.trim().to_owned()).collect()
}

/// Opens it on the live system and says where it is.
///
/// # Errors
/// What does not work. The machine waits for help without it.
pub fn open(
    wanted: &Wanted,
    online: &Online,
    runner: &dyn Runner,
    reporter: &Reporter,
) -> Result<(Door, String)> {
    let (terminals, home) = (Path::new("/dev/pts"), Path::new("/root"));
    if !terminals.join("ptmx").exists() {
        fs::create_dir_all(terminals).context("making /dev/pts")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("devpts"), terminals, Some("devpts"), flags, Some("mode=0620,gid=5,ptmxmode=0666"))
            .context("mounting terminals for those who log in")?;
    }
    let door = listen(wanted, Path::new("/run/akene/ssh"), home, PORT, runner)?;
    let addresses: Vec<String> = online.addresses.iter().map(|(_, ip)| format!("ssh root@{ip}")).collect();
    let where_to = format!("{} ({})", addresses.join(", "), door.fingerprints.join(", "));
    reporter.info(format!("administrators can log in: {where_to}"));
    Ok((door, where_to))
}

/// Starts the server, with what it needs in `dir`. Who logs in as root has `home`.
///
/// # Errors
/// A program is missing, or it does not start.
pub fn listen(wanted: &Wanted, dir: &Path, home: &Path, port: u16, runner: &dyn Runner) -> Result<Door> {
    let private = |path: &Path| -> Result<()> {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("closing {}", path.display()))
    };
    for path in [dir, home, &home.join(".ssh")] {
        private(path)?;
    }
    let people: String = wanted.people.iter().map(|line| format!("{line}\n")).collect();
    write(&home.join(".ssh/authorized_keys"), people.as_bytes())?;
    let keys = host_keys(wanted, dir, runner)?;
    let mut fingerprints = Vec::new();
    let mut cmd =
        Cmd::new("dropbear").args(["-F", "-E", "-m", "-s", "-j", "-k", "-K", "60", "-p", &port.to_string()]);
    for key in &keys {
        let shown = runner.run(&Cmd::new("dropbearkey").arg("-y").arg("-f").arg(key))?.text();
        fingerprints.push(fingerprint(&shown).context("finding the public key in what dropbearkey says")?);
        cmd = cmd.arg("-r").arg(key);
    }
    let log = File::create(dir.join("log")).context("making the log of the SSH server")?;
    let sessions = Sessions::new()?;
    let mut running = cmd.arg("-P").arg(dir.join("pid")).spawn(Streams::Log(log))?;
    // It has not read its keys yet, and let nobody in.
    sessions.take_in(running.id())?;
    // One that cannot listen ends at once.
    if let Some(status) = running.wait(Duration::from_millis(500))? {
        let said = fs::read_to_string(dir.join("log")).unwrap_or_default();
        anyhow::bail!("the SSH server ended with {status}: {}", said.trim());
    }
    Ok(Door { sessions, _running: running, fingerprints })
}

/// The keys of this computer in the server's own form.
fn host_keys(wanted: &Wanted, dir: &Path, runner: &dyn Runner) -> Result<Vec<PathBuf>> {
    let mut keys = Vec::new();
    for (n, key) in wanted.host_keys.iter().enumerate() {
        let (from, to) = (dir.join(format!("{n}.openssh")), dir.join(format!("{n}.key")));
        write(&from, key)?;
        if to.exists() {
            fs::remove_file(&to).with_context(|| format!("removing {}", to.display()))?;
        }
        let convert = Cmd::new("dropbearconvert").args(["openssh", "dropbear"]).arg(&from).arg(&to);
        // A kind of key that the server does not know is passed over.
        if runner.run(&convert).is_ok() && to.exists() {
            keys.push(to);
        }
        fs::remove_file(&from).with_context(|| format!("removing {}", from.display()))?;
    }
    if keys.is_empty() {
        let new = dir.join("new.key");
        if !new.exists() {
            runner.run(&Cmd::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(&new))?;
        }
        keys.push(new);
    }
    ensure!(!keys.is_empty(), "this computer has no key to show itself by");
    Ok(keys)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content)).with_context(|| format!("writing {}", path.display()))
}

/// What `ssh` shows of a public key: the line with it is among others.
fn fingerprint(said: &str) -> Option<String> {
    said.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let kind = words.next().filter(|kind| kind.starts_with("ssh-") || kind.starts_with("ecdsa-"))?;
        let blob = STANDARD.decode(words.next()?).ok()?;
        Some(format!("{kind} SHA256:{}", STANDARD_NO_PAD.encode(Sha256::of(&blob).0)))
    })
}

#[cfg(test)]
mod tests {
    use akene_protocol::inventory::{
        Bus, Content, Disk, FirmwareKind, Health, LooksLike, Partition, Table, TableKind,
    };
    use akene_protocol::profile::parse_layer;
    use akene_protocol::{Bytes, RunId};
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::probe::disk::partition_path;
    use crate::sys::test_disk::TestDisk;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIxssCYDv32A0pS1MfCqVLWZbrWx2V5F1//sW9zGGlcc test@example.org";

    /// Puts a profile on a boot partition, signed.
    fn sign(boot: &Path, profile: &str, signer: u8) {
        let apt = "[apt]\ndistribution = \"debian\"\nsuite = \"trixie\"\n";
        let profile = parse_layer(&format!("{profile}\n{apt}"), "p").unwrap();
        let (site, name, revision) = ("s".into(), "p".into(), "1".into());
        let bundle = Bundle { site, name, revision, classes: vec![], profile };
        let envelope = Envelope::sign(&bundle, &SigningKey::from_bytes(&[signer; 32]));
        fs::create_dir(boot.join("akene")).unwrap();
        fs::write(boot.join("akene/profile.json"), serde_json::to_vec(&envelope).unwrap()).unwrap();
    }

    /// Whom such a profile lets in.
    fn allowed(profile: &str, signer: u8) -> Result<Vec<String>> {
        let boot = tempfile::tempdir().unwrap();
        sign(boot.path(), profile, signer);
        let key = PublicKey(SigningKey::from_bytes(&[7; 32]).verifying_key());
        let resolved = resolved(boot.path(), &Inventory::unknown(FirmwareKind::Bios), &key)?;
        Ok(keys_of(&resolved.unwrap()))
    }

    #[test]
    fn only_administrators_of_a_signed_profile_that_lets_anybody_in_are_let_in() {
        let ssh = format!("[ssh]\ninstall-server = true\nauthorized-keys = [\"{KEY}\"]\n");
        assert_eq!(allowed(&ssh, 7).unwrap(), [KEY]);
        assert_eq!(allowed(&format!("{ssh}[identity]\nusername = \"vera\"\n"), 7).unwrap(), [KEY]);
        assert!(allowed(&ssh.replace("true", "false"), 7).unwrap().is_empty());
        assert!(allowed(&ssh, 8).is_err(), "signed by somebody else");
        let user = |sudo| {
            format!(
                "[ssh]\ninstall-server = true\n[[users]]\nname = \"ana\"\nsudo = {sudo}\nauthorized-keys = [\"{KEY}\"]\n"
            )
        };
        assert_eq!(allowed(&user(true), 7).unwrap(), [KEY]);
        assert!(allowed(&user(false), 7).unwrap().is_empty());
        let key = PublicKey(SigningKey::from_bytes(&[7; 32]).verifying_key());
        let empty = tempfile::tempdir().unwrap();
        assert!(resolved(empty.path(), &Inventory::unknown(FirmwareKind::Bios), &key).unwrap().is_none());
    }

    #[test]
    fn what_is_plugged_in_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, disk) = (dir.path().join("boot"), dir.path().join("disk"));
        fs::create_dir(&boot).unwrap();
        sign(&boot, &format!("[ssh]\ninstall-server = true\nauthorized-keys = [\"{KEY}\"]\n"), 7);
        let Some(made) = TestDisk::new(16, &["-d", boot.to_str().unwrap()]) else { return };
        std::os::unix::fs::symlink(&made.node, partition_path(&disk, 1)).unwrap();
        let key = PublicKey(SigningKey::from_bytes(&[7; 32]).verifying_key());
        let let_in = |removable, live_medium| {
            let inventory = Inventory {
                disks: vec![with_boot_partition(&disk, removable, live_medium)],
                ..Inventory::unknown(FirmwareKind::Bios)
            };
            wanted(&inventory, &key, &Reporter::new(RunId([1; 8]), 1)).map(|wanted| wanted.people)
        };
        assert_eq!(let_in(false, false).unwrap(), [KEY]);
        assert_eq!((let_in(true, false), let_in(false, true)), (None, None));
    }

    fn with_boot_partition(path: &Path, removable: bool, live_medium: bool) -> Disk {
        let content = Content {
            kind: "ext4".into(),
            label: None,
            uuid: None,
            used: None,
            looks_like: Some(LooksLike::AkeneBoot { unfinished: false, root: None, root_goes: false }),
        };
        let partition = Partition {
            number: 1,
            start: Bytes::mib(1),
            size: Bytes::mib(16),
            kind: "0x83".into(),
            name: None,
            uuid: None,
            content: Some(content),
        };
        let table = Table {
            kind: TableKind::Mbr,
            id: None,
            hash: Sha256::of(b""),
            damage: None,
            partitions: vec![partition],
        };
        Disk {
            name: "sda".into(),
            path: path.to_str().unwrap().into(),
            by_id: None,
            size: Bytes::gib(1),
            logical_sector: 512,
            physical_sector: 512,
            model: None,
            serial: None,
            wwn: None,
            bus: Bus::Usb,
            rotational: None,
            removable,
            read_only: false,
            live_medium,
            health: Health::Good,
            table: Some(table),
            content: None,
        }
    }

    #[test]
    fn a_fingerprint_is_what_ssh_shows() {
        // `ssh-keygen -lf` of this key.
        let said = format!("Public key portion is:\n{KEY}\nFingerprint: sha1!! 00:11\n");
        let shown = fingerprint(&said).unwrap();
        assert_eq!(shown, format!("ssh-ed25519 {EXPECTED}"));
        for odd in ["", "ssh-ed25519", "ssh-ed25519 !!", "nothing"] {
            assert_eq!(fingerprint(odd), None);
        }
    }

    const EXPECTED: &str = "SHA256:xmHu8qnfxTKX0NX4ZgnvKtmpJaAwV2uB0cxj1TTtLGM";
}
