//! Which of the ways to treat the disks is taken, and what is said when none can be.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use akene_protocol::Bytes;
use akene_protocol::api::Consent;
use akene_protocol::inventory::{Disk, FirmwareKind, Health, Inventory, TableKind, VolumeGroup};
use akene_protocol::profile::Foreign;
use akene_protocol::resolve::StorageWishes;

use crate::arrangement::{Arrangement, Solved};
use crate::candidates::{Candidates, Excluded, candidates};
use crate::lay;
use crate::problem::{EMBEDDING_AREA, Kind, PRIMARIES, Problem, REGIONS, Region, bits};
use crate::recognise::never_used;
use crate::{Destroyed, GRAIN, Issue, Issues, Plan, Role, VERSION, ground, homes, reinstall, risk, words};

/// A plan with how it came about.
pub(crate) struct Decided<'a> {
    pub plan: Plan,
    pub solved: Solved<'a>,
}

/// Plans the disks of a machine where no more than `allowed` may be destroyed.
pub(crate) fn decide<'a>(
    wishes: &'a StorageWishes,
    inventory: &'a Inventory,
    allowed: Consent,
) -> Result<Decided<'a>, Issues> {
    let Candidates { mut usable, mut excluded } = candidates(wishes, inventory)?;
    // Always the same order, whatever the kernel found first.
    let order = |d: &&Disk| (d.serial.clone(), d.name.clone());
    if usable.len() > MOST_DISKS {
        usable.sort_by_cached_key(|d| (!reinstall::is_boot_disk(d), Reverse(d.size), order(d)));
        excluded.extend(usable.drain(MOST_DISKS..).map(Excluded::beyond));
    }
    usable.sort_by_cached_key(order);
    let mut remarks: Vec<Issue> = Vec::new();
    let never_used = never_used(&usable, inventory);
    if let Some(solved) = reinstalled(wishes, inventory, &usable, &never_used, allowed, &mut remarks)? {
        return Ok(finish(solved, &usable, &inventory.volume_groups, &remarks, &excluded));
    }
    let mut free = usable;
    // Where nothing that is there is touched, the room beside it can be used.
    if wishes.keep_homes && wishes.foreign != Foreign::Leave {
        let spared = |d: &Disk| never_used.contains(&d.name.as_str());
        excluded
            .extend(homes::set_aside(&mut free, wishes, &inventory.volume_groups, &spared, &|_, _| false));
    }
    let kind = inventory.firmware.kind;
    let around = match allowed {
        Consent::Blank => Vec::new(),
        Consent::Wipe | Consent::Streamed | Consent::None => {
            homes::around(&free, wishes, inventory, &never_used)
        }
    };
    let mut refused = None;
    for (name, arrangement) in around {
        let solved = match arrangement {
            Ok(arrangement) => {
                arrangement.solve(wishes, kind).map_err(|problem| shortages(&problem).join("; "))
            }
            Err(why) => Err(why),
        };
        match solved {
            Ok(solved) => return Ok(finish(solved, &free, &inventory.volume_groups, &remarks, &excluded)),
            Err(why) => refused = refused.or_else(|| Some(in_the_way(&name, &why))),
        }
    }
    if let Some(issue) = refused {
        return Err(issue.into());
    }
    let arrangement = new(&free, wishes, &never_used, allowed, &mut remarks);
    match arrangement.solve(wishes, kind) {
        Ok(solved) => Ok(finish(solved, &free, &inventory.volume_groups, &remarks, &excluded)),
        Err(problem) => {
            let mut issues = remarks;
            issues.extend(too_small(&problem));
            issues.extend(excluded.iter().map(Excluded::issue));
            Err(Issues(issues))
        }
    }
}

/// Disks beyond this are not looked at: a bit for each.
pub(crate) const MOST_DISKS: usize = 16;

/// The best of the arrangements in which an Akène machine's own table stays.
///
/// # Errors
/// There are people's files on such a disk, and it cannot serve: a person decides, nobody installs beside them.
fn reinstalled<'a>(
    wishes: &'a StorageWishes,
    inventory: &'a Inventory,
    disks: &[&'a Disk],
    never_used: &[&str],
    allowed: Consent,
    remarks: &mut Vec<Issue>,
) -> Result<Option<Solved<'a>>, Issues> {
    let mut solved: Vec<(usize, Solved<'a>)> = Vec::new();
    let mut blocked: Vec<Issue> = Vec::new();
    let ours = |d: &Disk| reinstall::is_boot_disk(d) && !never_used.contains(&d.name.as_str());
    for at in (0..disks.len()).filter(|at| ours(disks[*at])) {
        let kind = inventory.firmware.kind;
        let instead = match reinstall::existing(at, disks, wishes, inventory) {
            Some(Ok(arrangement)) => arrangement.solve(wishes, kind).map_err(|problem| {
                let why = shortages(&problem).join("; ");
                reinstall::blocked(at, disks, wishes, inventory, &why)
            }),
            Some(Err(issue)) => Err(Some(issue)),
            None => Err(None),
        };
        let beside = || {
            let arrangement = reinstall::beside(at, disks, wishes, inventory)?;
            arrangement.solve(wishes, kind).ok().filter(is_well_placed)
        };
        match instead {
            Ok(one) => {
                let more = beside().filter(|more| takes_nothing(more, &one));
                solved.push((at, more.unwrap_or(one)));
            }
            // The place of the old root does not serve, and the other one may.
            Err(Some(issue)) => match beside().filter(uses_no_other_disk) {
                Some(more) => solved.push((at, more)),
                None => blocked.push(issue),
            },
            Err(None) => {}
        }
    }
    if !blocked.is_empty() && solved.is_empty() {
        return Err(Issues(blocked));
    }
    if allowed == Consent::Blank {
        solved.retain(|(at, one)| {
            let lost = lost(one);
            if !lost.is_empty() {
                remarks.push(consent_needed(disks[*at], &lost));
            }
            lost.is_empty()
        });
    }
    remarks.extend(blocked);
    // Only by what an installation does not change, so that the next one chooses the same.
    solved.sort_by_cached_key(|(at, one)| {
        let disk = disks[*at];
        let gone: Vec<bool> =
            wishes.volumes.iter().map(|v| one.left_out.iter().any(|l| l.name == v.name)).collect();
        (gone, disk.health >= Health::Worn, risk::latency(disk), disk.health, Reverse(disk.size), *at)
    });
    Ok(solved.into_iter().next().map(|(_, one)| one))
}

/// Whether a new root beside the old one takes nothing away from anybody, a blank disk neither.
fn takes_nothing(beside: &Solved<'_>, instead: &Solved<'_>) -> bool {
    let names =
        |solved: &Solved<'_>| -> Vec<String> { solved.left_out.iter().map(|v| v.name.clone()).collect() };
    names(beside) == names(instead)
        && beside.disks().is_subset(&instead.disks())
        && beside.layout.objective.risk <= instead.layout.objective.risk
        && (instead.problem.items.is_empty()
            || beside.layout.objective.short <= instead.layout.objective.short)
}

/// Whether it takes no disk on which nothing has its place already.
fn uses_no_other_disk(beside: &Solved<'_>) -> bool {
    let fixed: BTreeSet<&str> =
        beside.arrangement.fixed.iter().map(|(g, _)| beside.problem.grounds[*g].disk.name.as_str()).collect();
    beside.disks().is_subset(&fixed)
}

/// Whether a new root beside the old one has a place that is no step back, and is known by its name.
fn is_well_placed(beside: &Solved<'_>) -> bool {
    let problem = &beside.problem;
    let layout = &beside.layout;
    let old = beside.arrangement.fixed.iter().find(|(_, p)| p.purpose == Role::Old);
    let serves = |at: usize| {
        let (size, place) = (Bytes(layout.sizes[at] * GRAIN.0), layout.places[at]);
        let Some((root, (was, old))) = problem.items[at].wish().zip(old) else { return false };
        let latency = |g: usize| risk::latency(problem.grounds[g].disk);
        let named = |g: usize| problem.grounds[g].table == TableKind::Gpt;
        reinstall::second::serves(size, old.size, root)
            && place.count_ones() == 1
            && bits(problem.disks_of(place)).all(|g| named(g) && latency(g) <= latency(*was))
    };
    let mut placed = (0..problem.items.len()).filter(|at| problem.items[*at].is_root());
    placed.all(serves)
}

/// New tables, or with [`Foreign::Leave`] the room beside what is there.
fn new<'a>(
    disks: &[&'a Disk],
    wishes: &'a StorageWishes,
    never_used: &[&str],
    allowed: Consent,
    remarks: &mut Vec<Issue>,
) -> Arrangement<'a> {
    let mut arrangement = Arrangement::fresh(disks, wishes, never_used);
    for (site, disk) in arrangement.sites.iter_mut().zip(disks) {
        if !site.ground.destroys {
            continue;
        }
        match (wishes.foreign, &disk.table) {
            (Foreign::Leave, Some(table)) => *site = ground::kept(disk, table, &|_| true),
            (Foreign::Leave, None) => site.free.clear(),
            (Foreign::Replace, _) if allowed == Consent::Blank => {
                remarks.push(consent_needed(disk, &site.lost));
                site.free.clear();
            }
            (Foreign::Replace, _) => {}
        }
    }
    arrangement
}

/// What a solved arrangement destroys.
fn lost(solved: &Solved<'_>) -> Vec<Destroyed> {
    let mut lost = solved.arrangement.destroys.clone();
    let touched = solved.layout.places.iter().fold(0, |all, p| all | solved.problem.disks_of(*p));
    let sites = solved.arrangement.sites.iter().enumerate();
    lost.extend(sites.filter(|(g, _)| touched & (1 << g) != 0).flat_map(|(_, s)| s.lost.clone()));
    lost
}

fn finish<'a>(
    solved: Solved<'a>,
    disks: &[&Disk],
    groups_found: &[VolumeGroup],
    remarks: &[Issue],
    excluded: &[Excluded],
) -> Decided<'a> {
    let (plans, groups) = lay::disks(&solved);
    let mut destroys = lost(&solved);
    for what in &mut destroys {
        if let Some(group) = groups_found.iter().find(|g| g.members.contains(&what.name)) {
            let volumes: Vec<String> = group
                .logical
                .iter()
                .map(|l| format!("{}: {}", l.name, words::content(l.content.as_ref(), l.size)))
                .collect();
            what.what += &format!("; with it the volume group `{}` ({})", group.name, volumes.join(", "));
        }
    }
    let mut notes = solved.arrangement.notes.clone();
    let boot = plans.first().map(|d| d.disk.name.clone()).unwrap_or_default();
    let one = disks.len() == 1 || solved.arrangement.reinstall;
    for volume in &solved.left_out {
        let already = notes.iter().any(|n| n.starts_with(&format!("`{}` is left out", volume.name)));
        if already {
            continue;
        }
        notes.push(match one {
            true => format!("`{}` is left out: {boot} has no room for its {}", volume.name, volume.min),
            false => format!("`{}` is left out: no disk has room for its {}", volume.name, volume.min),
        });
    }
    let used = |name: &str| plans.iter().any(|d| d.disk.name == name);
    for disk in disks.iter().filter(|d| !used(&d.name)) {
        if remarks.iter().any(|issue| issue.path.starts_with(&disk.name)) {
            continue;
        }
        let name = &disk.name;
        let site = solved.arrangement.sites.iter().find(|s| s.ground.disk.name == *name);
        let regions = &solved.problem.regions;
        let searched = regions.iter().any(|r| solved.problem.grounds[r.ground].disk.name == *name);
        notes.push(match site.is_some_and(|s| !s.free.is_empty()) {
            true if searched => unneeded(&solved, name, &boot),
            true => format!("{name} is not used: only the {REGIONS} largest free places are looked at"),
            false if solved.arrangement.reinstall => {
                format!("{name} is not used: what it holds is no part of this computer's system, and stays")
            }
            false => format!("{name} is not used: what it holds stays, and leaves no room"),
        });
    }
    notes.extend(remarks.iter().map(|issue| issue.message.clone()));
    notes.extend(excluded.iter().map(|e| format!("{} is not used: it {}", e.disk, e.why)));
    let plan = Plan {
        version: VERSION,
        disks: plans,
        groups,
        rung: solved.rung.name().to_owned(),
        needs: if destroys.is_empty() { Consent::Blank } else { Consent::Wipe },
        destroys,
        notes,
    };
    Decided { plan, solved }
}

/// Why a disk is not used that could be.
fn unneeded(solved: &Solved<'_>, disk: &str, boot: &str) -> String {
    let problem = &solved.problem;
    let spread = solved.not_spread.as_ref().and_then(|layout| {
        let item = layout.spread()?;
        let mut on = bits(problem.disks_of(layout.places[item]));
        on.any(|g| problem.grounds[g].disk.name == disk).then_some((layout, item))
    });
    let worn = problem.grounds.iter().find(|g| g.disk.name == disk && g.disk.health == Health::Worn);
    match spread {
        _ if worn.is_some() => {
            let loss = risk::percent(risk::yearly(Health::Worn));
            format!("{disk} is not used: it is worn, and would be lost within a year with {loss}")
        }
        Some((layout, item)) => format!("{disk} is not used: {}", lay::not_spread(solved, layout, item)),
        None if solved.layout.objective.short => format!("{disk} is not used: {boot} serves better"),
        None => format!("{disk} is not used: everything has enough without it"),
    }
}

fn consent_needed(disk: &Disk, lost: &[Destroyed]) -> Issue {
    let lost: Vec<String> = lost.iter().map(|d| format!("{}: {}", d.name, d.what)).collect();
    let name = &disk.name;
    Issue::new(
        "consent-needed",
        name,
        format!("{name} is not used: what it holds may not be destroyed: {}", lost.join("; ")),
        "save what is wanted of it, then order the installation with permission to wipe",
    )
}

fn in_the_way(name: &str, why: &str) -> Issue {
    Issue::new(
        "kept-data-in-the-way",
        name,
        format!(
            "{name} holds people's files, which are kept, but there is no system that fits around them: {why}"
        ),
        "copy the files away and set `storage.keep-homes = false`, ask less in the profile's `storage`, or put in \
         another disk",
    )
}

/// What an item needs at least, part by part, in grains.
fn least(problem: &Problem<'_>, ground: usize) -> Vec<(String, Bytes, Option<&'static str>)> {
    let bytes = |grains: u64| Bytes(grains * GRAIN.0);
    let mut parts = Vec::new();
    for item in &problem.items {
        match item.kind {
            Kind::Chain => {
                let chain = problem.grounds[ground].chain;
                if problem.grounds[ground].table == TableKind::Gpt {
                    parts.push(("BIOS boot partition".into(), GRAIN, None));
                }
                parts.push(("EFI system partition".into(), bytes(chain.esp), None));
                parts.push(("boot partition".into(), bytes(problem.least_boot(ground)), None));
            }
            Kind::Volume(wish) => {
                let span = (!wish.span).then_some("allow `span` for it");
                parts.push((lay::item_name(&item.kind), bytes(item.ask.min), span));
            }
        }
    }
    let logical = match problem.grounds[ground].table {
        TableKind::Mbr if problem.grounds[ground].new_table && parts.len() > PRIMARIES => parts.len() - 3,
        _ => 0,
    };
    parts.sort_by_key(|(_, size, _)| Reverse(*size));
    parts.push(("the table".into(), bytes(2 + logical as u64), None));
    parts
}

/// What is missing, in words.
fn shortages(problem: &Problem<'_>) -> Vec<String> {
    too_small(problem).into_iter().map(|issue| issue.message).collect()
}

/// Why even the least does not fit.
fn too_small(problem: &Problem<'_>) -> Vec<Issue> {
    let chain = problem.items.iter().any(|item| matches!(item.kind, Kind::Chain));
    let mut issues: Vec<Issue> = match chain && problem.firmware == FirmwareKind::Bios {
        true => problem
            .grounds
            .iter()
            .enumerate()
            .filter(|(g, ground)| {
                let has_room = |r: &Region| r.ground == *g && r.grains >= problem.least_chain(*g);
                !ground.bios && problem.regions.iter().any(has_room)
            })
            .map(|(_, ground)| not_startable(ground.disk))
            .collect(),
        false => Vec::new(),
    };
    // The others are not asked to hold more than they would.
    if issues.is_empty() || problem.regions.iter().any(|r| problem.grounds[r.ground].bios) {
        issues.extend(too_little_room(problem));
    }
    issues
}

/// A BIOS would not start what is laid on a disk that has room.
fn not_startable(disk: &Disk) -> Issue {
    let name = &disk.name;
    let (why, next) = match disk.logical_sector {
        512 => (
            format!(
                "has an MBR and a partition that stays and begins before {EMBEDDING_AREA}, where GRUB has to lie"
            ),
            "let what is there be replaced (`storage.foreign`, permission to wipe), or put in another disk",
        ),
        _ => (
            format!("has sectors of {} bytes", disk.logical_sector),
            "start this computer by UEFI, or put in another disk",
        ),
    };
    Issue::new("not-startable-by-bios", name, format!("a BIOS cannot start from {name}, which {why}"), next)
}

/// What is missing where everything could be started.
fn too_little_room(problem: &Problem<'_>) -> Vec<Issue> {
    let bytes = |grains: u64| Bytes(grains * GRAIN.0);
    let Some(largest) = problem.regions.iter().max_by_key(|r| (r.grains, Reverse(r.ground))) else {
        if problem.grounds.is_empty() {
            let next = "see what is said about each disk";
            return vec![Issue::new("no-usable-disk", "", "no disk of this computer can be used", next)];
        }
        let parts: Vec<String> =
            least(problem, 0).iter().map(|(what, size, _)| format!("{what} {size}")).collect();
        return vec![Issue::new(
            "no-room",
            "",
            format!(
                "no disk has free room where a partition could be made, and there must be room for {}",
                words::list(&parts)
            ),
            "allow what is there to be replaced (`storage.foreign`, permission to wipe), or put in another disk",
        )];
    };
    let ground = &problem.grounds[largest.ground];
    let name = &ground.disk.name;
    let parts = least(problem, largest.ground);
    let need: Bytes = parts.iter().map(|(_, size, _)| *size).sum();
    // One grain before the first partition, one for what follows the last.
    let have = bytes(largest.grains + 2);
    let listed: Vec<String> = parts.iter().map(|(what, size, _)| format!("{what} {size}")).collect();
    if problem.regions.len() == 1 {
        let place = match ground.new_table {
            true => format!("the largest usable disk, {name}, has {have}"),
            false => format!("the only free room, on {name}, has {have}"),
        };
        if have >= need && ground.entries < problem.items.len() + 2 {
            return vec![Issue::new(
                "table-full",
                name,
                format!(
                    "{place}, which is enough, but its partition table takes only {} more partitions, and {} are \
                     needed ({})",
                    ground.entries,
                    listed.len() - 1,
                    words::list(&listed[..listed.len() - 1])
                ),
                "make room in the table by deleting a partition, or let what is there be replaced (`storage.foreign`, \
                 permission to wipe)",
            )];
        }
        let missing = need.saturating_sub(have);
        return vec![Issue::new(
            "disk-too-small",
            name,
            format!("{need} are needed at least ({}); {place}: {missing} are missing", words::list(&listed)),
            "put in a larger disk, or choose a profile that asks for less",
        )];
    }
    let mut issues = Vec::new();
    let total: u64 = problem.regions.iter().map(|r| r.grains + 2).sum();
    for (what, size, fix) in parts.iter().filter(|(_, size, _)| *size > bytes(largest.grains)) {
        issues.push(Issue::new(
            "volume-too-large",
            what,
            format!(
                "{what} needs {size}; the largest room on one disk, {name}, has {}, and all of them together have {}",
                bytes(largest.grains),
                bytes(total)
            ),
            match fix {
                Some(fix) => format!("{fix} in the profile, ask less for it, or put in a larger disk"),
                None => "ask less for it in the profile, or put in a larger disk".to_owned(),
            },
        ));
    }
    if issues.is_empty() || need > bytes(total) {
        issues.push(Issue::new(
            "disks-too-small",
            name,
            format!(
                "{need} are needed at least ({}); the {} free stretches of the disks have {} together, the largest, on \
                 {name}, {have}: they cannot be divided among them",
                words::list(&listed),
                problem.regions.len(),
                bytes(total)
            ),
            "put in a larger disk, or choose a profile that asks for less",
        ));
    }
    issues
}
