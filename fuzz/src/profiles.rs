//! What an administrator writes.

use akene_protocol::inventory::FirmwareKind;
use akene_protocol::profile::{Bundle, parse_layer, parse_toml};
use akene_protocol::resolve::resolve;
use akene_protocol::rule::Rule;
use akene_protocol::{AssetNumber, Bytes, Inventory};

use crate::machine;

/// Between the profile and its class in an input.
const CUT: &str = "\n#####\n";

/// A profile and a class of it, resolved for a machine and planned for.
pub fn profile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (profile, class) = text.split_once(CUT).unwrap_or((text, ""));
    for text in [profile, class] {
        parse_toml::<akene_server::site::SiteConfig>(text, "site.toml").ok();
        if let Ok(rule) = text.trim().parse::<Rule>() {
            assert_eq!(rule.to_string().parse::<Rule>().as_ref(), Ok(&rule));
            rule.matches(&machine::ordinary());
        }
        text.trim().parse::<Bytes>().ok();
    }
    let Ok(profile) = parse_layer(profile, "profiles/default.toml") else { return };
    let classes = match parse_layer(class, "classes/other/class.toml") {
        Ok(class) => profile.classes.iter().map(|name| (name.clone(), class.clone())).collect(),
        Err(_) => vec![],
    };
    let bundle =
        Bundle { site: "site".into(), name: "default".into(), revision: "0".into(), classes, profile };
    crate::documents::same_again(&bundle, |text| serde_json::from_slice(text).ok());
    for inventory in [machine::ordinary(), Inventory::unknown(FirmwareKind::Bios)] {
        if let Ok(resolved) = resolve(&bundle, &inventory, Some(AssetNumber::new(1042))) {
            // Refusals of sizes nobody has are as good as plans.
            akene_planner::plan(&resolved.storage, &inventory).ok();
        }
    }
}
