//! The pages for a browser: the fleet and one machine, to look at only. No script, no form; every text
//! that comes from a machine is escaped.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use akene_protocol::event::{EventKind, Level};
use axum::extract::{Path, State};
use axum::response::Html;

use super::Shared;
use super::admin::with_picture;
use super::auth::Admin;
use super::refusal::Refusal;
use crate::state::Stage;
use crate::view::{self, Detail, Summary, Waiting};

const STYLE: &str = "body{font:16px/1.4 sans-serif;margin:1.5rem;color:#1b1b1b;background:#fff}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid #ccc;\
vertical-align:top}.akene-plan{max-width:100%;height:auto}th{font-weight:600}code,pre{font-size:.9em}pre{overflow:auto;background:#f4f4f4;padding:.7rem}\
.confirmed{color:#146c2e}.failed{color:#a11}.installing,.installed{color:#8a5a00}.n{font-size:1.15em;font-weight:600}";

/// Events shown on a page, newest last.
const SHOWN: usize = 200;

/// A text with the five characters escaped that mean something in HTML.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn page(title: &str, refresh: bool, body: &str) -> Html<String> {
    let refresh = if refresh { "<meta http-equiv=\"refresh\" content=\"10\">" } else { "" };
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">{refresh}\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\
         <body>{body}</body></html>",
        title = Escaped(title)
    ))
}

/// `GET /`.
pub async fn fleet(_: Admin, State(shared): State<Arc<Shared>>) -> Result<Html<String>, Refusal> {
    let name = shared.site.config()?.name;
    let (machines, waiting) = shared.db.call(|db| Ok((view::list(db)?, view::waiting(db)?))).await?;
    Ok(page(&name, true, &(fleet_body(&name, &machines) + &waiting_body(&waiting))))
}

/// `GET /machines/ID`.
pub async fn machine(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Html<String>, Refusal> {
    let (detail, picture) = with_picture(&shared, name).await?;
    let busy = matches!(detail.summary.state, Stage::Enrolled | Stage::Installing | Stage::Installed);
    Ok(page(&format!("Computer {}", detail.summary.asset), busy, &machine_body(&detail, &picture)))
}

fn fleet_body(site: &str, machines: &[Summary]) -> String {
    let mut rows = String::new();
    for m in machines {
        rows += &format!(
            "<tr><td class=n><a href=\"/machines/{asset}\">{asset}</a></td><td class={state}>{words}{order}</td>\
             <td>{hardware}</td><td>{association}</td><td>{profile}</td><td>{seen}<br>{peer}</td></tr>",
            asset = Escaped(m.asset),
            state = m.state.name(),
            words = Escaped(&m.words),
            order = match m.order.as_ref().filter(|o| o.state.is_pending()) {
                Some(order) => format!("<br>{}: {}", Escaped(&order.asks), Escaped(&order.words)),
                None => String::new(),
            },
            hardware = Escaped(&m.hardware),
            association = Escaped(m.association.as_deref().unwrap_or("–")),
            profile = Escaped(m.profile.as_deref().unwrap_or("–")),
            seen = Escaped(&short(&m.seen)),
            peer = Escaped(&m.peer),
        );
    }
    if machines.is_empty() {
        rows += "<tr><td colspan=6>No computer has enrolled yet. Start one from a stamped medium.</td></tr>";
    }
    format!(
        "<h1>{}</h1><p>{} computers. Times are UTC; the page renews itself.</p><table><thead><tr><th>Number</th>\
         <th>State</th><th>Computer</th><th>Association</th><th>Profile</th><th>Last seen</th></tr></thead><tbody>{rows}</tbody></table>",
        Escaped(site),
        machines.len()
    )
}

/// Those who are no members yet, if any.
fn waiting_body(waiting: &[Waiting]) -> String {
    if waiting.is_empty() {
        return String::new();
    }
    let mut out = "<h2>Waiting</h2><p>Installed without a network, from a medium that does not count: `akene-server machine \
        admit` or `machine drop` decides. Or started from a medium and not installed: nothing has to be decided.</p><table><thead><tr><th>Number</th><th>State</th><th>Computer</th>\
        <th>Association</th><th>Last heard of</th></tr></thead><tbody>"
        .to_owned();
    for w in waiting {
        out += &format!(
            "<tr><td class=n>{}</td><td>{}</td><td>{}<br><code>{}</code></td><td>{}</td><td>{}<br>{}</td></tr>",
            Escaped(w.asset),
            Escaped(&w.words),
            Escaped(&w.hardware),
            w.machine,
            Escaped(w.association.as_deref().unwrap_or("–")),
            Escaped(&short(&w.seen)),
            Escaped(&w.peer),
        );
    }
    out + "</tbody></table>"
}

/// `picture` is SVG, in which every text is escaped already.
fn machine_body(detail: &Detail, picture: &str) -> String {
    let m = &detail.summary;
    let mut out = format!(
        "<p><a href=\"/\">All computers</a></p><h1>Computer {}</h1><p class={}><b>{}</b></p><p>{}</p>\
         <p>Id <code>{}</code>, first seen {}, last seen {} from {}.</p>",
        Escaped(m.asset),
        m.state.name(),
        Escaped(&m.words),
        Escaped(&m.hardware),
        m.machine,
        Escaped(&short(&m.created)),
        Escaped(&short(&m.seen)),
        Escaped(&m.peer),
    );
    if let Some(association) = &m.association {
        out += &format!("<p>For {}.</p>", Escaped(association));
    }
    if let Some(medium) = m.medium {
        out += &format!("<p>It joined without a network, by the medium <code>{medium}</code>.</p>");
    }
    for issue in m.issues.iter().chain(&m.refusal) {
        out += &format!("<p class=failed>{}</p>", Escaped(issue));
    }
    if !detail.notes.is_empty() {
        out += "<h2>Notes</h2><ul>";
        for note in &detail.notes {
            out += &format!("<li>{}: {}</li>", Escaped(&short(&note.at)), Escaped(&note.text));
        }
        out += "</ul>";
    }
    if !detail.orders.is_empty() {
        out += "<h2>Orders</h2><table><thead><tr><th>Given</th><th>Order</th><th>State</th><th>Expires</th></tr></thead><tbody>";
        for order in &detail.orders {
            out += &format!(
                "<tr><td>{}</td><td>{}<br><code>{}</code></td><td>{}, {}</td><td>{}</td></tr>",
                Escaped(&short(&order.issued.to_string())),
                Escaped(&order.asks),
                order.order,
                Escaped(&order.words),
                Escaped(&short(&order.changed)),
                Escaped(&short(&order.expires.to_string())),
            );
        }
        out += "</tbody></table>";
    }
    out += "<h2>Runs</h2><table><thead><tr><th>Begun</th><th>Run</th><th>State</th><th>Profile</th><th>Logs</th>\
            </tr></thead><tbody>";
    for run in &detail.runs {
        let logs: Vec<String> = run
            .logs
            .iter()
            .map(|(name, size)| {
                let name = Escaped(name);
                format!(
                    "<a href=\"/v1/admin/machines/{}/logs/{}/{name}\">{name}</a> ({size} bytes)",
                    m.machine, run.run
                )
            })
            .collect();
        let profile = match (&run.profile, &run.why) {
            (Some(profile), Some(why)) => format!("{profile}: {why}"),
            _ => "–".into(),
        };
        out += &format!(
            "<tr><td>{}</td><td><code>{}</code></td><td class={}>{}</td><td>{}</td><td>{}</td></tr>",
            Escaped(&short(&run.created.to_string())),
            run.run,
            run.state.name(),
            Escaped(&run.words),
            Escaped(profile),
            logs.join("<br>"),
        );
    }
    out += "</tbody></table>";
    let told: Vec<String> =
        detail.events.iter().filter_map(|e| Some(format!("{}  {}", e.at, told(&e.kind)?))).collect();
    let from = told.len().saturating_sub(SHOWN);
    out += &format!("<h2>Newest run</h2><pre>{}</pre>", Escaped(told[from..].join("\n")));
    out += &format!(
        "<h2>Disks</h2><p>As planned; also as a <a href=\"/machines/{}/plan.svg\">picture</a> of its own.</p>{picture}",
        Escaped(m.asset)
    );
    if let Some(plan) = &detail.plan {
        out += &format!("<h2>Plan</h2><pre>{}</pre>", Escaped(pretty(plan)));
    }
    out += &format!("<h2>Inventory</h2><pre>{}</pre>", Escaped(pretty(&detail.inventory)));
    out
}

/// An event as a line; progress is in the state already.
fn told(kind: &EventKind) -> Option<String> {
    Some(match kind {
        EventKind::Progress { .. } | EventKind::Log { level: Level::Debug, .. } => return None,
        EventKind::PhaseStarted { phase } => format!("{}…", phase.title()),
        EventKind::PhaseFinished { phase } => format!("{}: done", phase.title()),
        EventKind::Log { message, .. } => format!("  {message}"),
        EventKind::Planned { .. } => "  the plan is made".into(),
        EventKind::Failed { issues, .. } => {
            let issues: Vec<String> = issues.iter().map(ToString::to_string).collect();
            format!("failed: {}", issues.join("; "))
        }
        EventKind::Installed => "installed; restarting".into(),
        EventKind::Confirmed { system, kernel } => format!("{system} runs, kernel {kernel}"),
    })
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|e| format!("cannot be shown: {e}"))
}

/// `2026-11-22T05:00:59.123Z` as `2026-11-22 05:00:59`.
fn short(time: &str) -> String {
    time.chars().take(19).collect::<String>().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_machine_becomes_markup() {
        assert_eq!(Escaped("<a href='x'>\"&\"").to_string(), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;");
    }
}
