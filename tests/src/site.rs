//! A site of its own for each test: a directory, a running server, and what the server knows.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, Running, Streams, SystemRunner};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::mirror::Mirror;
use crate::port::own_port;

/// A key that opens the first user's account. Its other half was never kept.
pub const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIxssCYDv32A0pS1MfCqVLWZbrWx2V5F1//sW9zGGlcc test@example.org";

/// The hash of the first user's password, where a profile has one: see [`with_password`].
pub const PASSWORD_HASH: &str =
    "$6$akenetest$SUGDn3qaXpxM9CXTTJiB8XL867eMbPOfbL0Qrt/CNd5OjjP98CIwqovtK15EYjOqJQblpKkkrhIEaTP9W3pfV.";

/// A profile whose first user has a password too.
pub fn with_password(profile: &str) -> String {
    let user = format!("username = \"{USER}\"");
    profile.replace(&user, &format!("{user}\npassword = \"{PASSWORD_HASH}\""))
}

/// Login name of the first user.
pub const USER: &str = "vera";

/// A program of this workspace, as cargo built it beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program")?;
    let dirs = here.ancestors().skip(1).take(2);
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("finding {name} beside {}: run `cargo build --workspace` first", here.display())
    })
}

/// For a profile, where the disk has 12 GiB: a root of 3 GiB, and room for another one.
pub const TWO_ROOTS: &str = r#"
[storage.volumes.root]
min = "2 GiB"
enough = "3 GiB"
max = "3 GiB"

[storage.volumes.home]
enough = "1 GiB"

[storage.volumes.swap]
enough = "512 MiB"
max = "512 MiB"
"#;

/// The profile of a small server, from the host's own distribution through the mirror, whose address is
/// what `host` is called where the profile is read.
pub fn small_server(mirror: &Mirror, host: &str) -> String {
    let base = format!("http://{host}:{}/{}", mirror.server.port(), mirror.host.archive());
    let kernel = match mirror.host.distribution.as_str() {
        "debian" => "linux-image-cloud-amd64",
        _ => "linux-image-virtual",
    };
    format!(
        r#"description = "A small server for tests"
locale = "C.UTF-8"
timezone = "Europe/Paris"
packages = ["dbus", "less", "libpam-systemd"]

[identity]
hostname = "test-${{asset}}"
username = "{USER}"

[ssh]
install-server = true
authorized-keys = ["{SSH_KEY}"]

[kernel]
package = "{kernel}"
arguments = ["console=ttyS0,115200"]

[apt]
distribution = "{}"
suite = "{}"
mirrors = ["{base}"]
security-mirrors = ["{base}-security"]
components = ["main"]
install-recommends = false
"#,
        mirror.host.distribution, mirror.host.suite
    )
}

/// The address by which this host reaches others, which a virtual machine can reach too.
pub fn outward_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: connecting only chooses the way.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then(|| address.to_string())
}

/// A site and its server.
pub struct Site {
    /// The site directory.
    pub dir: PathBuf,
    address: String,
    running: Option<Running>,
}

impl Site {
    /// Makes a site whose machines call the server `host`, and writes its only profile.
    pub fn new(dir: &Path, host: &str, profile: &str) -> Result<Self> {
        Self::with_consent(dir, host, profile, "blank")
    }

    /// The same, with what new machines may lose: `none`, `blank` or `wipe`.
    pub fn with_consent(dir: &Path, host: &str, profile: &str, consent: &str) -> Result<Self> {
        let port = own_port()?;
        let dir = dir.join("site");
        let init = Cmd::new(program("akene-server")?).arg("init").arg(&dir).args([
            "--url",
            &format!("https://{host}:{port}"),
            "--name",
            "Test site",
            "--new-machines",
            consent,
        ]);
        SystemRunner.run(&init)?;
        let config = dir.join("site.toml");
        let text = std::fs::read_to_string(&config).context("reading the site's settings")?;
        // Machines call the loopback interface by another name.
        let listen = if host == crate::vm::HOST { "127.0.0.1" } else { host };
        std::fs::write(&config, format!("listen = \"{listen}:{port}\"\n{text}"))
            .context("changing the site's settings")?;
        let site = Site { dir, address: format!("{listen}:{port}"), running: None };
        site.write_profile(profile)?;
        Ok(site)
    }

    /// Replaces the profile. It counts at once.
    pub fn write_profile(&self, profile: &str) -> Result<()> {
        std::fs::write(self.dir.join("profiles/default.toml"), profile).context("writing the profile")
    }

    /// What an image is stamped with.
    pub fn stamp(&self) -> PathBuf {
        self.dir.join("stamp.json")
    }

    /// The token in the stamp, which must not be found where it has no business.
    pub fn token(&self) -> Result<String> {
        let stamp: Value = serde_json::from_slice(&std::fs::read(self.stamp()).context("reading the stamp")?)
            .context("reading the stamp")?;
        stamp["source"]["token"].as_str().map(str::to_owned).context("the stamp holds no token")
    }

    /// Starts the server and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .context("opening a log")?;
        let serve = Cmd::new(program("akene-server")?).arg("serve").arg(&self.dir);
        let mut running = serve.spawn(Streams::Log(log))?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(&self.address).is_err() {
            if let Some(status) = running.ended()? {
                bail!("the server ended at once ({status}); {}", self.log_text());
            }
            ensure!(Instant::now() < deadline, "the server does not answer; {}", self.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.running = Some(running);
        Ok(())
    }

    /// Kills the server as a power cut would.
    pub fn stop(&mut self) {
        self.running = None;
    }

    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// What the server wrote.
    pub fn log_text(&self) -> String {
        format!("the server wrote:\n{}", std::fs::read_to_string(self.log()).unwrap_or_default())
    }

    /// The log of a machine's newest run (as `show --json` gives it), fetched as a browser does.
    pub fn install_log(&self, machine: &Value) -> Result<String> {
        let id = machine["machine"].as_str().context("the machine has no id")?;
        let run = machine["run"].as_str().context("the machine has no run")?;
        let token = std::fs::read_to_string(self.dir.join("secrets/admin-token"))
            .context("reading the administrator's token")?;
        let ca = std::fs::read(self.dir.join("secrets/ca.pem")).context("reading the authority")?;
        // Whoever was first has installed it.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::blocking::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).context("reading the authority")?])
            .danger_accept_invalid_hostnames(true)
            .no_proxy()
            .build()
            .context("preparing HTTP")?;
        let url = format!("https://{}/v1/admin/machines/{id}/logs/{run}/install.log", self.address);
        let answer =
            client.get(&url).bearer_auth(token.trim()).send().with_context(|| format!("asking {url}"))?;
        answer.error_for_status().and_then(|a| a.text()).with_context(|| format!("asking {url}"))
    }

    /// All machines, as the server's own command line lists them.
    pub fn machines(&self) -> Result<Vec<Value>> {
        let list = Cmd::new(program("akene-server")?).arg("machines").arg(&self.dir).arg("--json");
        SystemRunner.run(&list)?.json()
    }

    /// The same for people.
    pub fn overview(&self) -> Result<String> {
        Ok(SystemRunner.run(&Cmd::new(program("akene-server")?).arg("machines").arg(&self.dir))?.text())
    }

    /// Permits another installation of a machine of [`Self::machines`], whatever is on its disks.
    pub fn allow_wipe(&self, machine: &Value) -> Result<()> {
        let asset = machine["asset"].as_str().context("looking for the machine's number")?;
        let allow = Cmd::new(program("akene-server")?).arg("allow").arg(&self.dir).args([asset, "--wipe"]);
        SystemRunner.run(&allow).map(drop)
    }

    /// All the server knows of a machine, for people.
    pub fn show(&self, asset: &str) -> Result<String> {
        Ok(SystemRunner
            .run(&Cmd::new(program("akene-server")?).arg("show").arg(&self.dir).arg(asset))?
            .text())
    }

    /// Waits until the only machine is in this state at the server; `alive` says whether waiting makes sense.
    pub fn wait_for(&self, state: &str, limit: Duration, mut alive: impl FnMut() -> bool) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let machines = self.machines()?;
            if let Some(machine) = machines.iter().find(|m| m["state"] == state) {
                return Ok(machine.clone());
            }
            // A failed run does not become anything else by waiting.
            let failed = machines.iter().find(|m| m["state"] == "failed");
            ensure!(failed.is_none(), "the installation failed: {:#}", failed.unwrap_or(&Value::Null));
            ensure!(alive(), "the machine ended before the server saw it as {state}: {machines:#?}");
            ensure!(
                Instant::now() < deadline,
                "no machine is {state} after {} s: {machines:#?}",
                limit.as_secs()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}
