//! How long planning takes: eight disks of different sizes, kinds and health with the default volumes, and harder
//! cases. `cargo run --release -p akene-planner --example speed`

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use akene_planner::plan;
use akene_protocol::Bytes;
use akene_protocol::inventory::{Disk, FirmwareKind, Health};
use common::{disk, machine, usual};

fn main() {
    let different = |count: u64, base: u64, step: u64| -> Vec<Disk> {
        (0..count)
            .map(|i| Disk {
                rotational: Some(i % 3 != 0),
                health: if i % 2 == 0 { Health::Good } else { Health::Unknown },
                ..disk(&format!("sd{}", char::from(b'a' + i as u8)), Bytes::mib((base + step * i) * 1000))
            })
            .collect()
    };
    let cases: [(&str, Vec<Disk>); 6] = [
        ("8 different disks, 40 to 320 GB", different(8, 40, 40)),
        ("8 different disks, 4 to 11 GB", different(8, 4, 1)),
        ("8 different disks, 10 to 17 GB", different(8, 10, 1)),
        (
            "8 different disks, 2 to 3.4 GB",
            different(8, 2, 0)
                .into_iter()
                .enumerate()
                .map(|(i, d)| Disk { size: d.size + Bytes::mib(200 * i as u64), ..d })
                .collect(),
        ),
        ("8 equal disks of 40 GB", (0..8).map(|i| disk(&format!("sd{i}"), Bytes::gib(37))).collect()),
        ("4 different disks, 10 to 13 GB", different(4, 10, 1)),
    ];
    for (name, disks) in cases {
        let machine = machine(FirmwareKind::Bios, disks);
        let mut fastest = f64::INFINITY;
        let mut said = String::new();
        for _ in 0..5 {
            let start = Instant::now();
            let done = plan(&usual(), &machine);
            fastest = fastest.min(start.elapsed().as_secs_f64() * 1000.0);
            said = match done {
                Ok(plan) => {
                    let disks: Vec<_> = plan.disks.iter().map(|d| d.disk.name.clone()).collect();
                    format!("{}, on {}, {} groups", plan.rung, disks.join(" "), plan.groups.len())
                }
                Err(issues) => issues.to_string(),
            };
        }
        println!("{name:<36} {fastest:8.2} ms   {said}");
    }
}
