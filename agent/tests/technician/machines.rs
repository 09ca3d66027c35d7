//! The golden machines, with what is offered for them.

use std::fs;
use std::path::{Path, PathBuf};

use akene_agent::run::technician::Offered;
use akene_agent::technician::dialog::{Answers, Dialog};
use akene_agent::technician::outlook::Outlook;
use akene_agent::technician::rehearsal::Rehearsal;
use akene_planner::Plan;
use akene_protocol::api::Consent;
use akene_protocol::issue::Issues;
use akene_protocol::profile::{Bundle, parse_layer};
use akene_protocol::{AssetNumber, Bytes, Inventory, Language};

pub const SITE: &str = "Emmaüs Lannion";

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn read(name: &str, file: &str) -> String {
    fs::read_to_string(golden(name).join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"))
}

pub fn inventory(name: &str) -> Inventory {
    serde_json::from_str(&read(name, "inventory.json")).unwrap()
}

/// The profile of a golden machine, under another name.
pub fn bundle(machine: &str, name: &str) -> Bundle {
    Bundle {
        site: SITE.into(),
        name: name.into(),
        revision: "0".into(),
        classes: vec![],
        profile: parse_layer(&read(machine, "profile.toml"), "profiles/golden.toml").unwrap(),
    }
}

pub fn offered() -> Vec<Offered> {
    let offer = |name: &str, title: Option<&str>, mib| Offered {
        name: name.into(),
        size: Bytes::mib(mib),
        title: title.map(str::to_owned),
    };
    vec![
        offer("bureau", Some("Bureau complet, pour un PC de 2 GiB ou plus"), 1436),
        offer("leger", Some("Bureau léger, pour un vieux PC"), 718),
        offer("minimal", None, 290),
    ]
}

pub fn associations() -> Vec<String> {
    ["Emmaüs Lannion", "Secours populaire, Guingamp", "Collège Charles-Le-Goffic"].map(str::to_owned).to_vec()
}

/// A medium with three profiles at this machine.
pub fn rehearsal(machine: &str) -> Rehearsal {
    let profiles = offered().into_iter().map(|offered| (bundle(machine, &offered.name), offered)).collect();
    Rehearsal {
        site: SITE.into(),
        associations: associations(),
        profiles,
        known: None,
        inventory: inventory(machine),
        consent: Consent::Wipe,
    }
}

pub fn choosing(language: Language, associations: &[String], known: Option<u32>) -> Dialog {
    let (known, mut inventory) = (known.map(AssetNumber::new), inventory("windows"));
    inventory.dmi.system_vendor = Some("Dell Inc.".into());
    inventory.dmi.product_name = Some("OptiPlex 755".into());
    let lists = (associations, offered().leak() as &[Offered]);
    Dialog::choose(SITE, language, Answers::default(), lists, known, &inventory)
}

pub fn plan(machine: &str) -> Result<Plan, Issues> {
    let inventory = inventory(machine);
    let resolved = akene_protocol::resolve::resolve(&bundle(machine, "bureau"), &inventory, None)?;
    akene_planner::plan(&resolved.storage, &inventory)
}

pub fn confirming(language: Language, machine: &str) -> Dialog {
    let plan = plan(machine).unwrap_or_else(|e| panic!("{machine}: {e}"));
    let outlook = Outlook { plan, inventory: inventory(machine), profile: "Bureau complet".into() };
    Dialog::confirm(SITE, language, Answers::default(), outlook)
}

/// The plan that the planner's own tests have for a machine, if it can be installed.
pub fn golden_outlook(machine: &str) -> Option<Outlook> {
    let plan = fs::read_to_string(golden(machine).join("plan.json")).ok()?;
    let plan = serde_json::from_str(&plan).unwrap();
    Some(Outlook { plan, inventory: inventory(machine), profile: "Bureau complet".into() })
}

/// All golden machines.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(golden("")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn refusing(language: Language, machine: &str) -> Dialog {
    let issues = plan(machine).expect_err(machine);
    Dialog::tell(SITE, language, Answers::default(), &issues.0)
}
