use akene_exec::Cmd;
use akene_planner::{Member, Role};
use akene_protocol::Bytes;
use akene_protocol::profile::Filesystem;

use super::*;
use crate::storage::image::Image;
use crate::sys::test_disk::has_loop_devices;

/// Says so where LVM cannot write its metadata.
fn can_run() -> bool {
    let lvm = SystemRunner.run(&Cmd::new("lvm").arg("version").env("LVM_SUPPRESS_FD_WARNINGS", "1")).is_ok();
    if !lvm {
        eprintln!("SKIPPED: needs lvm2");
    }
    lvm && has_loop_devices()
}

fn group(members: Vec<PathBuf>, size: u64) -> LockedGroup {
    LockedGroup {
        plan: GroupPlan {
            name: "akene-home".into(),
            purpose: Role::Volume("home".into()),
            action: Action::Create,
            size: Bytes(size),
            filesystem: Some(Filesystem::Ext4),
            label: Some("akene-home".into()),
            mount: Some("/home".into()),
            members: vec![Member { disk: "sda".into(), partition: 1 }],
            why: String::new(),
        },
        members,
        id: Uuid::nil(),
        sector: 512,
        pending: false,
        active: None,
    }
}

#[test]
fn the_node_is_named_as_device_mapper_names_it() {
    assert_eq!(group(vec![], 0).node(), Path::new("/dev/mapper/akene--home-home"));
}

#[test]
fn a_group_over_two_disks_is_made_and_found_again() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for sector in [512, 4096] {
        let image =
            |name: &str, mib: u64| Image::create(&dir.path().join(name), Bytes(mib << 20), sector).unwrap();
        let (a, b) = (image("a", 99), image("b", 203));
        let members = vec![a.path().to_owned(), b.path().to_owned()];
        // What each holds: a MiB less, in whole extents. All of it must be had.
        let size = (24 + 50) * EXTENT;
        let made = group(members.clone(), size);
        made.write_metadata(&Work::Real(&SystemRunner)).unwrap_or_else(|e| panic!("{e:#}"));

        for member in &members {
            let verdict = SystemRunner.run(&lvm::command("pvck", &members).arg(member)).unwrap();
            assert!(verdict.text().contains("type=LVM2 001"), "{}", verdict.text());
        }
        let fields =
            ["--noheadings", "--units", "b", "--nosuffix", "-o", "vg_name,pv_count,lv_count,vg_free"];
        let seen = SystemRunner.run(&lvm::command("vgs", &members).args(fields)).unwrap().text();
        assert_eq!(
            seen.split_whitespace().collect::<Vec<_>>(),
            ["akene-home", "2", "1", "0"],
            "nothing is left"
        );

        let report = lvm::Report::of(&members, &SystemRunner).unwrap();
        let found = &report.groups[0];
        assert!(report.is_complete(found));
        assert_eq!(report.volumes(found)["home"], size);
        let mut listed = report.members(found);
        listed.sort();
        assert_eq!(listed, members);

        // The kernel of a build host: a clear refusal, and nothing hangs.
        let mut kept = group(members.clone(), size);
        kept.plan.action = Action::Keep;
        if !lvm::has_device_mapper(&SystemRunner) {
            let refusal = kept.ensure_possible(&SystemRunner).unwrap_err();
            assert_eq!(refusal.downcast_ref::<Issue>().unwrap().code, "no-device-mapper");
        }
        // Not what the plan was made for.
        let refused = |group: &mut LockedGroup| {
            let error = group.find(&SystemRunner).unwrap_err();
            error.downcast_ref::<Issue>().unwrap_or_else(|| panic!("{error:#}")).code.clone()
        };
        let mut other = group(members.clone(), size - EXTENT);
        other.plan.action = Action::Keep;
        assert_eq!(refused(&mut other), "group-changed");
        let mut other = group(vec![members[1].clone()], size);
        other.plan.action = Action::Keep;
        assert_eq!(refused(&mut other), "group-changed", "a disk is missing");
        a.detach().unwrap();
        b.detach().unwrap();
    }
}
