//! Golden machines: `golden/NAME/{inventory.json,profile.toml}` give `plan.json` and the text people see,
//! `plan.txt`; or `error.txt`. With `AKENE_BLESS=1` the results are written instead of compared; read the
//! difference before you commit it. xmllint judges the picture of each machine.

use std::fs;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_planner::{Plan, render};
use akene_protocol::inventory::Inventory;
use akene_protocol::issue::Issues;
use akene_protocol::profile::{Bundle, parse_layer};
use akene_protocol::resolve::resolve;

fn plan_of(profile: &str, inventory: &Inventory) -> Result<Plan, Issues> {
    let layer = parse_layer(profile, "profiles/golden.toml")?;
    let bundle = Bundle {
        site: "golden".into(),
        name: "golden".into(),
        revision: "0".into(),
        classes: vec![],
        profile: layer,
    };
    akene_planner::plan(&resolve(&bundle, inventory, None)?.storage, inventory)
}

/// Compares a file with what it should hold, or writes it. Tells what is wrong.
fn expect(path: &Path, text: Option<&str>, bless: bool) -> Option<String> {
    let found = fs::read_to_string(path).ok();
    if found.as_deref() == text {
        return None;
    }
    if bless {
        match text {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        return None;
    }
    let shown = |text: Option<&str>| text.unwrap_or("(no such file)\n").to_owned();
    Some(format!("{}:\nexpected\n{}got\n{}", path.display(), shown(found.as_deref()), shown(text)))
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 40, "only {} golden machines in {}", cases.len(), root.display());
    cases
}

fn inventory_of(case: &Path) -> Inventory {
    let inventory = fs::read_to_string(case.join("inventory.json")).unwrap();
    serde_json::from_str(&inventory).unwrap_or_else(|e| panic!("{}/inventory.json: {e}", case.display()))
}

#[test]
fn every_picture_is_well_formed() {
    let dir = tempfile::tempdir().unwrap();
    let mut check = Cmd::new("xmllint").args(["--noout", "--nonet"]);
    for case in cases() {
        let inventory = inventory_of(&case);
        let plan = plan_of(&fs::read_to_string(case.join("profile.toml")).unwrap(), &inventory);
        let file = dir.path().join(case.file_name().unwrap()).with_extension("svg");
        fs::write(&file, render::svg(&inventory, plan.as_ref())).unwrap();
        check = check.arg(&file);
    }
    if SystemRunner.run(&Cmd::new("xmllint").arg("--version")).is_err() {
        eprintln!("SKIPPED: xmllint cannot be started here, nobody judges the pictures");
        return;
    }
    SystemRunner.run(&check).unwrap();
}

#[test]
fn every_golden_machine_gets_its_plan() {
    let bless = std::env::var_os("AKENE_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let inventory = inventory_of(&case);
        let profile = fs::read_to_string(case.join("profile.toml")).unwrap();
        let (plan, text, error) = match plan_of(&profile, &inventory) {
            Ok(plan) => {
                let json = serde_json::to_string_pretty(&plan).unwrap() + "\n";
                // What was written is read back as the same.
                assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
                (Some(json), Some(render::text(&plan, &inventory, render::Style::default())), None)
            }
            Err(issues) => (None, None, Some(format!("{issues}\n"))),
        };
        wrong.extend(expect(&case.join("plan.json"), plan.as_deref(), bless));
        wrong.extend(expect(&case.join("plan.txt"), text.as_deref(), bless));
        wrong.extend(expect(&case.join("error.txt"), error.as_deref(), bless));
    }
    assert!(wrong.is_empty(), "{}\nif this is right, run again with AKENE_BLESS=1", wrong.join("\n"));
}
