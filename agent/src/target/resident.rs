//! The agent that stays.

use akene_archive::Root;
use anyhow::{Context, Result};

use super::{Job, Watch};

/// Runs as long as the system does: it confirms the installation, then waits for orders. It begins when people can log in: by that
/// the boot loader knows a system that comes up, and where there is no network for a week, the system is none the worse.
const UNIT: &str = "\
[Unit]
Description=Akene agent: reports to the site's server and takes its orders
Wants=network-online.target
After=systemd-user-sessions.service boot-efi.mount
RequiresMountsFor=/boot

[Service]
ExecStart=/usr/lib/akene/akene-agent resident
Restart=always
RestartSec=30

[Install]
WantedBy=multi-user.target
";

/// A system that hangs as a whole is started anew by the computer's watchdog, where it has one.
const WATCHDOG: &str = "\
# Written by the installer: nobody may be near who could press a button.
[Manager]
RuntimeWatchdogSec=60
";

/// Puts the agent, its settings and its units in place.
pub(super) fn settle(job: &Job<'_>, root: &mut Root, _: &mut dyn Watch) -> Result<()> {
    let program = std::fs::read(job.resident.program)
        .with_context(|| format!("reading the agent {}", job.resident.program.display()))?;
    root.write("usr/lib/akene/akene-agent", program, 0o755)?;
    // For whoever wants to postpone what was announced.
    root.symlink("../../lib/akene/akene-agent", "usr/local/bin/akene-agent")?;
    root.make_dir("etc/akene", 0o700)?;
    root.write("etc/akene/agent.json", job.resident.config, 0o600)?;
    if let Some(identity) = job.resident.identity {
        let text = serde_json::to_vec_pretty(identity).context("writing the identity")?;
        root.write("etc/akene/identity.json", text, 0o600)?;
    }
    root.write("etc/systemd/system/akene-agent.service", UNIT, 0o644)?;
    root.symlink("../akene-agent.service", "etc/systemd/system/multi-user.target.wants/akene-agent.service")?;
    root.write("etc/systemd/system.conf.d/akene.conf", WATCHDOG, 0o644)
}
