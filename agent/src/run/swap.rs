//! The new disk's swap, in use during the installation already.
//!
//! A machine with 512 MB unpacks and configures hundreds of packages with its root in memory; compressed memory
//! takes it a part of the way. The swap partition is ours and freshly made, so it can carry the rest. It is
//! switched off before the disks are let go of.

use std::path::PathBuf;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::profile::Filesystem;

use crate::report::Reporter;
use crate::storage::Layout;

/// Below compressed memory, which has 100: a disk is the last resort.
const PRIORITY: &str = "10";

/// Bringing everything back from a slow disk takes a while.
const PATIENCE: Duration = Duration::from_secs(600);

/// Partitions that are swapped to.
#[derive(Debug, Default)]
pub struct TargetSwap(Vec<PathBuf>);

impl TargetSwap {
    /// Swaps to every swap partition of the layout. One that cannot be used is a pity and no failure.
    pub fn on(&mut self, layout: &Layout, runner: &dyn Runner, reporter: &Reporter) {
        let swaps = layout.partitions.iter().filter(|p| p.fstype == Some(Filesystem::Swap));
        for device in swaps.map(|p| p.device.clone()) {
            match runner.run(&Cmd::new("swapon").args(["-p", PRIORITY]).arg(&device).timeout(PATIENCE)) {
                Ok(_) => {
                    reporter.debug(format!("little memory: swapping to {}", device.display()));
                    self.0.push(device);
                }
                Err(error) => reporter.debug(format!("swapping to {}: {error:#}", device.display())),
            }
        }
    }

    /// Stops it again. What cannot be brought back into memory stays where it is until the machine restarts,
    /// which writes nothing but swap.
    pub fn off(&mut self, runner: &dyn Runner, reporter: &Reporter) {
        for device in self.0.drain(..) {
            if let Err(error) = runner.run(&Cmd::new("swapoff").arg(&device).timeout(PATIENCE)) {
                reporter.debug(format!("swapping to {} no more: {error:#}", device.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MountedPartition;
    use akene_exec::RecordingRunner;
    use akene_planner::Role;
    use akene_protocol::RunId;

    #[test]
    fn only_swap_is_swapped_to_and_each_is_switched_off_once() {
        let partition = |number: u32, fstype, role| MountedPartition {
            role,
            device: format!("/dev/sda{number}").into(),
            disk: "/dev/sda".into(),
            number,
            uuid: None,
            partuuid: None,
            fstype: Some(fstype),
            label: None,
            mount: None,
            kept: false,
        };
        let layout = Layout {
            partitions: vec![
                partition(3, Filesystem::Ext4, Role::Boot),
                partition(4, Filesystem::Swap, Role::Swap),
                partition(5, Filesystem::Ext4, Role::Root),
            ],
            ..Layout::default()
        };
        let runner = RecordingRunner::default();
        let reporter = Reporter::new(RunId([1; 8]), 1);
        let mut swap = TargetSwap::default();
        swap.on(&layout, &runner, &reporter);
        swap.off(&runner, &reporter);
        swap.off(&runner, &reporter);
        assert_eq!(runner.calls(), [vec!["swapon", "-p", "10", "/dev/sda4"], vec!["swapoff", "/dev/sda4"]]);
    }
}
