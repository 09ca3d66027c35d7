//! Dispatch.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use akene_agent::boot::keyboard::Keyboard;
use akene_agent::boot::{Console, ConsoleKind, Consoles};
use akene_agent::cli::{Cli, Command, PlanArgs, ProbeArgs, TechnicianArgs};
use akene_agent::run::native::{self, Outcome};
use akene_agent::run::technician::Offered;
use akene_agent::run::{Done, live};
use akene_agent::sys::terminal;
use akene_agent::technician::{self, rehearsal::Rehearsal};
use akene_agent::{boot, net, probe, rescue, resident};
use akene_exec::SystemRunner;
use akene_planner::render::{self, Style};
use akene_protocol::Bytes;
use anyhow::{Context, Result};
use clap::Parser;

/// Of a run that was refused or failed, and has said why.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    if boot::is_init() {
        let live = boot::live_system(&SystemRunner);
        live::run(live, &SystemRunner);
    }
    let result = match Cli::parse().command {
        Command::Probe(args) => show_machine(&args),
        Command::Plan(args) => show_plan(&args),
        Command::Install(args) => args.request().and_then(|request| {
            Ok(match native::run(&request, &SystemRunner)? {
                Outcome::Done(done) => show_done(&done),
                Outcome::Failed(_) => ExitCode::from(FAILED),
            })
        }),
        Command::Technician(args) => rehearse(&args),
        Command::Resident(args) => {
            let options = resident::Options { once: args.once, inventory: args.inventory };
            resident::run(&args.root, options).map(|()| ExitCode::SUCCESS)
        }
        Command::Postpone(args) => resident::postpone(&args.root).map(|answer| {
            println!("{answer}");
            ExitCode::SUCCESS
        }),
        Command::Rescue(args) => rescue::cmd::run(&args, &SystemRunner).map(|good| match good {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        }),
        Command::DhcpHook { action } => {
            net::dhcp::hook(&action, &|name| std::env::var(name).ok(), &SystemRunner)
                .map(|()| ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("akene-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("akene-agent: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn show_machine(args: &ProbeArgs) -> Result<ExitCode> {
    let mut out: Box<dyn Write> = match &args.output {
        Some(path) => {
            Box::new(std::fs::File::create(path).with_context(|| format!("creating {}", path.display()))?)
        }
        None => Box::new(std::io::stdout()),
    };
    probe::cmd::probe(&SystemRunner, args.json, args.also.clone(), &mut out)?;
    Ok(ExitCode::SUCCESS)
}

fn show_plan(args: &PlanArgs) -> Result<ExitCode> {
    let inventory = match &args.inventory {
        Some(path) => native::read_inventory(path)?,
        None => probe::inventory(&SystemRunner, &probe::ProbeRoot::default()),
    };
    let (bundle, _) = native::read_profile(&args.profile, args.site_key.as_ref())?;
    let resolved = akene_protocol::resolve::resolve(&bundle, &inventory, None)?;
    let plan = akene_planner::plan_within(&resolved.storage, &inventory, args.consent.into());
    if let Some(path) = &args.svg {
        let picture = akene_planner::render::svg(&inventory, plan.as_ref());
        std::fs::write(path, picture).with_context(|| format!("writing {}", path.display()))?;
    }
    let plan = plan?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&plan).context("writing the plan as JSON")?),
        false => {
            print!("{}", akene_planner::render::text(&plan, &inventory, style()));
            if args.steps {
                // Identifiers follow from the machine's own, which it has only when it is installed.
                let machine = akene_protocol::MachineId([0; 16]);
                show_steps(&akene_agent::storage::steps(&plan, machine)?);
            }
        }
    }
    if args.explain {
        print!(
            "\n{}",
            akene_planner::explain_within(&resolved.storage, &inventory, args.consent.into())?.text()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The technician's questions on this terminal.
fn rehearse(args: &TechnicianArgs) -> Result<ExitCode> {
    let inventory = match &args.inventory {
        Some(path) => native::read_inventory(path)?,
        None => probe::inventory(&SystemRunner, &probe::ProbeRoot::default()),
    };
    let mut profiles = Vec::new();
    for path in &args.profile {
        let (bundle, _) = native::read_profile(path, args.site_key.as_ref())?;
        let offered = Offered { name: bundle.name.clone(), size: Bytes(0), title: None };
        profiles.push((bundle, offered));
    }
    let rehearsal = Rehearsal {
        site: profiles.first().map(|(bundle, _)| bundle.site.clone()).unwrap_or_default(),
        associations: args.association.clone(),
        profiles,
        known: args.known,
        inventory,
        consent: args.consent.into(),
    };
    let kind = if args.serial { ConsoleKind::Serial } else { ConsoleKind::Screen };
    let consoles = Consoles(vec![Console::new("/dev/tty", kind)]);
    match rehearsal.with(&mut technician::open(&consoles, Keyboard::untouched(), args.language))? {
        Some(wish) => {
            let asset = wish.choice.asset.map_or_else(|| "a new number".into(), |asset| asset.to_string());
            println!("profile {}, {asset}; {}", wish.choice.profile, render::destroyed(&wish.plan));
        }
        None => println!("left"),
    }
    Ok(ExitCode::SUCCESS)
}

/// How standard output can be drawn on: in colour on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
fn style() -> Style {
    let out = std::io::stdout();
    let said = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    match out.is_terminal() {
        true => Style {
            colour: !said("NO_COLOR") && !dumb,
            width: terminal::columns(out).unwrap_or(Style::default().width),
        },
        false => Style::default(),
    }
}

/// What would be done to the disks, in order.
fn show_steps(steps: &[String]) {
    println!("\nwhat would be done to the disks, in this order:");
    steps.iter().for_each(|step| println!("  {step}"));
}

fn show_done(done: &Done) -> ExitCode {
    match done {
        Done::Installed { identity, .. } => {
            eprintln!("installed; the machine's number is {}", identity.asset)
        }
        Done::Planned { plan, machine } => {
            match akene_agent::storage::steps(plan, *machine) {
                Ok(steps) => show_steps(&steps),
                Err(error) => eprintln!("the steps cannot be told: {error:#}"),
            }
            eprintln!(
                "nothing was written. {}\nto carry the plan out, add --yes",
                akene_planner::render::destroyed(plan)
            )
        }
    }
    ExitCode::SUCCESS
}
