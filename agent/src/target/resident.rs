//! The agent that stays, and what tells the boot loader that the new system comes up.

use akene_archive::Root;
use anyhow::{Context, Result};

use super::{Job, Watch};

/// Runs as long as the system does: it confirms the installation, then waits for orders.
const UNIT: &str = "\
[Unit]
Description=Akene agent: reports to the site's server and takes its orders
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/lib/akene/akene-agent resident
Restart=always
RestartSec=30

[Install]
WantedBy=multi-user.target
";

/// Once people can log in, the system is up: GRUB need not count its starts any more (`akene_tries`, see [`super::menu`]).
/// It does not wait for a network: where there is none for a week, the system is none the worse.
const UP: &str = "\
[Unit]
Description=Tells the boot loader that the system comes up
After=systemd-user-sessions.service
RequiresMountsFor=/boot

[Service]
Type=oneshot
ExecStart=/usr/bin/grub-editenv /boot/grub/grubenv unset akene_tries

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
    root.write("etc/systemd/system/akene-up.service", UP, 0o644)?;
    for unit in ["akene-agent.service", "akene-up.service"] {
        root.symlink(&format!("../{unit}"), &format!("etc/systemd/system/multi-user.target.wants/{unit}"))?;
    }
    root.write("etc/systemd/system.conf.d/akene.conf", WATCHDOG, 0o644)
}
