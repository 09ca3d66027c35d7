//! `order`, `orders list`, `orders cancel`: straight on the database. A running server sees it within a second.

use std::time::Duration;

use akene_exec::{Cmd, Runner as _, SystemRunner};
use akene_protocol::order::When;
use akene_server::db::{Trouble, machines, orders};
use akene_server::order::{self, Kind, Wish};
use akene_server::site::Site;
use akene_server::view::{self, OrderView};
use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use super::machines::{open, with};
use super::say;
use crate::cli::{Life, Order, Orders, Task, Timing};

/// A moment: as machines write it, or what `date` makes of it in this server's own time.
fn moment(text: &str) -> Result<Timestamp> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let asked = Cmd::new("date").args(["--date", text, "+%s"]).timeout(Duration::from_secs(10));
    let seconds = SystemRunner.run(&asked).with_context(|| {
        format!("understanding the time `{text}`; write 2026-12-01T22:00:00Z or \"tomorrow 02:00\"")
    })?;
    let seconds = seconds.text().parse().context("reading what `date` said")?;
    Timestamp::from_second(seconds).context("reading what `date` said")
}

fn timed(wish: Wish, timing: &Timing) -> Result<Wish> {
    let when = match (&timing.at, timing.when_idle) {
        (Some(at), _) => When::At(moment(at)?),
        (None, true) => When::Idle,
        (None, false) => When::Now,
    };
    Ok(Wish {
        when,
        warning: timing.warn,
        postponements: timing.postpone,
        pause: timing.postpone_for,
        ..wish
    })
}

fn living(wish: Wish, life: &Life) -> Result<Wish> {
    let begins = match wish.when {
        When::At(at) => at.max(Timestamp::now()),
        When::Now | When::Idle => Timestamp::now(),
    };
    let expires = begins
        .checked_add(SignedDuration::from_secs(life.expires.into()))
        .context("reckoning when the order expires")?;
    Ok(Wish { expires: Some(expires), replace: life.replace, ..wish })
}

/// `order`.
pub fn give(args: &Order) -> Result<()> {
    let wish = match &args.task {
        Task::Reinstall { profile, wipe, streamed, timing, life } => {
            let wish = Wish {
                profile: profile.clone(),
                wipe: *wipe,
                streamed: *streamed,
                ..Wish::new(Kind::Reinstall)
            };
            living(timed(wish, timing)?, life)?
        }
        Task::Reboot { timing, life } => living(timed(Wish::new(Kind::Reboot), timing)?, life)?,
        Task::Inventory { life } => living(Wish::new(Kind::Inventory), life)?,
        Task::Logs { life } => living(Wish::new(Kind::Logs), life)?,
    };
    let site = Site::open(&args.machine.dir)?;
    let key = site.key()?;
    let poll = site.config()?.limits.poll_seconds;
    let (asset, placed) = with(&args.machine, |db, machine| {
        Ok((machine.asset, order::place(db, &site, &key, machine, &wish)?))
    })?;
    let o = &placed.order;
    say(&format!("{asset} is ordered: {}.", order::in_words(o)))?;
    if let Some(why) = &placed.why {
        say(&format!("The profile: {why}."))?;
    }
    if let Some(old) = placed.replaced {
        say(&format!("The open order {old} was cancelled for it."))?;
    }
    say(&format!(
        "Order {}, counts until {}. The computer asks every {poll} seconds while it runs; `akene-server orders list` \
         shows how far it is.",
        o.id, o.expires
    ))
}

/// `orders`.
pub fn run(command: Orders) -> Result<()> {
    match command {
        Orders::List { dir, machine, json } => {
            let list = open(&dir)?
                .run(|db| match &machine {
                    None => Ok(view::orders(db)?),
                    Some(name) => {
                        let machine = machines::find(db, name)?;
                        let list = orders::of_machine(db, machine.id)?;
                        Ok(list.iter().map(|order| OrderView::of(order, machine.asset)).collect::<Vec<_>>())
                    }
                })
                .map_err(Trouble::into_error)?;
            if json {
                return say(&serde_json::to_string_pretty(&list).context("encoding the list")?);
            }
            if list.is_empty() {
                return say("No order was given yet.");
            }
            for o in list {
                let issued: String =
                    o.issued.to_string().chars().take(16).collect::<String>().replace('T', " ");
                say(&format!(
                    "{:>8}  {issued}  {}: {}  [{}]",
                    o.asset.to_string(),
                    o.asks,
                    o.words,
                    o.order
                ))?;
            }
            Ok(())
        }
        Orders::Cancel { dir, id } => {
            let cancelled = open(&dir)?.run(|db| orders::cancel(db, id)).map_err(Trouble::into_error)?;
            let begun = match cancelled.state {
                orders::State::Begun => {
                    " The computer has begun to carry it out; its installer is refused if it has not asked yet."
                }
                _ => "",
            };
            say(&format!("The order {id} does not count any more.{begun}"))
        }
    }
}
