//! Rules on the inventory: `ram < 2 GiB and firmware = bios`.
//!
//! A rule chooses a profile for a machine, or switches a class on. Grammar, loosest first:
//! `A or B`, `A and B`, `not A`, `(A)`, comparison. A comparison is `FACT OP VALUE` with `=`, `!=`,
//! `<`, `<=`, `>`, `>=` or `~` (shell-like pattern with `*` and `?`, case ignored). A value with spaces
//! stands in double quotes.
//!
//! A fact the machine does not have makes its comparison *false*, whatever the operator: a missing
//! serial number must never select a machine. An unknown fact name is an error when the rule is read.

mod outcomes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::inventory::{FirmwareKind, Inventory};
use crate::size::Bytes;

pub use outcomes::outcomes;

/// A rule that was read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    text: String,
    expr: Expr,
}

#[derive(Clone, Debug, PartialEq)]
enum Expr {
    Or(Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Compare { fact: &'static Fact, op: Op, value: Value },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Like,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Size(Bytes),
    Number(u64),
    Text(String),
}

/// What a fact is and how it is read.
#[derive(Debug)]
pub struct Fact {
    /// Its name in rules.
    pub name: &'static str,
    /// What it means, for the reference.
    pub meaning: &'static str,
    /// The only values there are, where they can be counted: another one in a rule is an error.
    pub one_of: &'static [&'static str],
    kind: Kind,
    read: fn(&Inventory) -> Vec<Value>,
}

impl Fact {
    /// What kind of value it is compared with: `size`, `number` or `text`.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Size => "size",
            Kind::Number => "number",
            Kind::Text => "text",
        }
    }
}

impl PartialEq for Fact {
    fn eq(&self, other: &Fact) -> bool {
        self.name == other.name
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Size,
    Number,
    Text,
}

fn text(value: &Option<String>) -> Vec<Value> {
    value.iter().map(|t| Value::Text(t.clone())).collect()
}

/// Disks that an installation could use: neither removable, nor read-only, nor the live medium.
fn fixed_disks(inventory: &Inventory) -> impl Iterator<Item = &crate::inventory::Disk> {
    inventory.disks.iter().filter(|d| !d.removable && !d.read_only && !d.live_medium)
}

/// Every fact a rule may name.
pub const FACTS: &[Fact] = &[
    Fact {
        name: "ram",
        meaning: "memory the kernel can use",
        one_of: &[],
        kind: Kind::Size,
        read: |i| vec![Value::Size(i.memory.total)],
    },
    Fact {
        name: "disk.total",
        meaning: "size of all fixed disks together",
        one_of: &[],
        kind: Kind::Size,
        read: |i| vec![Value::Size(fixed_disks(i).map(|d| d.size).sum())],
    },
    Fact {
        name: "disk.largest",
        meaning: "size of the largest fixed disk",
        one_of: &[],
        kind: Kind::Size,
        read: |i| fixed_disks(i).map(|d| d.size).max().map(Value::Size).into_iter().collect(),
    },
    Fact {
        name: "disk.count",
        meaning: "number of fixed disks",
        one_of: &[],
        kind: Kind::Number,
        read: |i| vec![Value::Number(fixed_disks(i).count() as u64)],
    },
    Fact {
        name: "cpu.threads",
        meaning: "logical processors",
        one_of: &[],
        kind: Kind::Number,
        read: |i| i.cpu.threads.map(|n| Value::Number(n.into())).into_iter().collect(),
    },
    Fact {
        name: "cpu.level",
        meaning: "x86-64 microarchitecture level, 1 to 4",
        one_of: &[],
        kind: Kind::Number,
        read: |i| i.cpu.level.map(|n| Value::Number(n.into())).into_iter().collect(),
    },
    Fact {
        name: "cpu.model",
        meaning: "processor name",
        one_of: &[],
        kind: Kind::Text,
        read: |i| text(&i.cpu.model),
    },
    Fact {
        name: "firmware",
        meaning: "how the firmware starts systems",
        one_of: &["bios", "uefi64", "uefi32"],
        kind: Kind::Text,
        read: |i| {
            let name = match i.firmware.kind {
                FirmwareKind::Bios => "bios",
                FirmwareKind::Uefi64 => "uefi64",
                FirmwareKind::Uefi32 => "uefi32",
            };
            vec![Value::Text(name.to_owned())]
        },
    },
    Fact {
        name: "secure-boot",
        meaning: "whether Secure Boot is enforced; missing where the firmware has no such thing",
        one_of: &["on", "off"],
        kind: Kind::Text,
        read: |i| {
            i.firmware
                .secure_boot
                .map(|on| Value::Text(if on { "on" } else { "off" }.into()))
                .into_iter()
                .collect()
        },
    },
    Fact {
        name: "vendor",
        meaning: "system vendor from DMI",
        one_of: &[],
        kind: Kind::Text,
        read: |i| text(&i.dmi.system_vendor),
    },
    Fact {
        name: "product",
        meaning: "product name from DMI",
        one_of: &[],
        kind: Kind::Text,
        read: |i| text(&i.dmi.product_name),
    },
    Fact {
        name: "serial",
        meaning: "serial number from DMI",
        one_of: &[],
        kind: Kind::Text,
        read: |i| text(&i.dmi.product_serial),
    },
    Fact {
        name: "chassis",
        meaning: "chassis type from DMI (a number; 3 is a desktop, 9 and 10 laptops)",
        one_of: &[],
        kind: Kind::Text,
        read: |i| text(&i.dmi.chassis_type),
    },
    Fact {
        name: "mac",
        meaning: "permanent address of any network card",
        one_of: &[],
        kind: Kind::Text,
        read: |i| i.nics.iter().filter_map(|n| n.mac.clone()).map(Value::Text).collect(),
    },
    Fact {
        name: "battery",
        meaning: "number of batteries: more than 0 on a laptop",
        one_of: &[],
        kind: Kind::Number,
        read: |i| vec![Value::Number(i.batteries.len() as u64)],
    },
];

impl Rule {
    /// Whether the rule holds for this machine.
    pub fn matches(&self, inventory: &Inventory) -> bool {
        self.expr.holds(&|fact| (fact.read)(inventory))
    }
}

impl Expr {
    fn holds(&self, read: &dyn Fn(&'static Fact) -> Vec<Value>) -> bool {
        match self {
            Expr::Or(a, b) => a.holds(read) || b.holds(read),
            Expr::And(a, b) => a.holds(read) && b.holds(read),
            Expr::Not(a) => !a.holds(read),
            // A fact with several values (addresses of cards) matches when one of them does.
            Expr::Compare { fact, op, value } => read(fact).iter().any(|found| op.holds(found, value)),
        }
    }
}

impl Op {
    fn holds(self, found: &Value, wanted: &Value) -> bool {
        use std::cmp::Ordering;
        if self == Op::Like {
            return matches!((found, wanted), (Value::Text(t), Value::Text(p)) if glob(&p.to_lowercase(), &t.to_lowercase()));
        }
        let order = match (found, wanted) {
            (Value::Size(a), Value::Size(b)) => a.cmp(b),
            (Value::Number(a), Value::Number(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.to_lowercase().cmp(&b.to_lowercase()),
            _ => return false,
        };
        match self {
            Op::Eq => order == Ordering::Equal,
            Op::Ne => order != Ordering::Equal,
            Op::Lt => order == Ordering::Less,
            Op::Le => order != Ordering::Greater,
            Op::Gt => order == Ordering::Greater,
            Op::Ge => order != Ordering::Less,
            Op::Like => false,
        }
    }
}

/// Shell-like match: `*` any run, `?` one character.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut pi, mut ti, mut star) = (0, 0, None);
    while ti < t.len() {
        if pi < p.len() && p[pi] == '*' {
            star = Some((pi, ti));
            pi += 1;
        } else if pi < p.len() && (p[pi] == '?' || p[pi] == t[ti]) {
            (pi, ti) = (pi + 1, ti + 1);
        } else if let Some((star_pi, star_ti)) = star {
            // Let the last `*` take one character more.
            (pi, ti) = (star_pi + 1, star_ti + 1);
            star = Some((star_pi, star_ti + 1));
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|c| *c == '*')
}

impl FromStr for Rule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("a rule of {} characters is too long; {MAX_LENGTH} are allowed", text.len()));
        }
        let tokens = tokens(text)?;
        let mut parser = Parser { text, tokens: &tokens, at: 0, depth: 0 };
        let expr = parser.or()?;
        match parser.peek() {
            None => Ok(Rule { text: text.to_owned(), expr }),
            Some(token) => Err(format!("in the rule `{text}`: `{token}` was not expected here")),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            _ if c.is_whitespace() => {}
            '(' | ')' | '~' => tokens.push(c.to_string()),
            '=' => tokens.push("=".into()),
            '!' | '<' | '>' => match chars.next_if_eq(&'=') {
                Some(_) => tokens.push(format!("{c}=")),
                None if c == '!' => {
                    return Err(format!(
                        "in the rule `{text}`: `!` must be followed by `=`; write `not` to negate"
                    ));
                }
                None => tokens.push(c.to_string()),
            },
            '"' => {
                let mut value = String::from("\"");
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some(c) => value.push(c),
                        None => return Err(format!("in the rule `{text}`: a quotation mark is not closed")),
                    }
                }
                tokens.push(value);
            }
            _ => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"()~=!<>\"".contains(*c)) {
                    word.push(c);
                }
                tokens.push(word);
            }
        }
    }
    Ok(tokens)
}

/// Deepest nesting of a rule: far more than a person writes, far less than the stack holds.
const MAX_DEPTH: usize = 64;

/// Longest rule: a chain of `or`s becomes as deep as it is long.
const MAX_LENGTH: usize = 2000;

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [String],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn error<T>(&self, what: impl fmt::Display) -> Result<T, String> {
        Err(format!("in the rule `{}`: {what}", self.text))
    }

    fn or(&mut self) -> Result<Expr, String> {
        let mut left = self.and()?;
        while self.take("or") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, String> {
        let mut left = self.not()?;
        while self.take("and") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error("it is nested too deeply");
        }
        let expr = if self.take("not") {
            Expr::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let inner = self.or()?;
            if !self.take(")") {
                return self.error("a parenthesis is not closed");
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// The value after an operator: one text in quotation marks, or plain words, because a size has its
    /// unit apart.
    fn value(&mut self, fact: &Fact) -> Result<String, String> {
        if let Some(quoted) = self.peek().and_then(|t| t.strip_prefix('"')) {
            let quoted = quoted.to_owned();
            self.at += 1;
            return Ok(quoted);
        }
        let mut words = Vec::new();
        while let Some(token) = self.peek().filter(|t| !matches!(*t, "and" | "or" | ")")) {
            if token == "not" || token.starts_with(|c| "=!<>~(\"".contains(c)) {
                return self.error(format!(
                    "`{token}` was not expected in the value of `{}`; is an `and` missing before it?",
                    fact.name
                ));
            }
            words.push(token.to_owned());
            self.at += 1;
        }
        match words.is_empty() {
            true => self.error(format!("a value must follow `{}`", fact.name)),
            false => Ok(words.join(" ")),
        }
    }

    fn comparison(&mut self) -> Result<Expr, String> {
        let Some(name) = self.peek() else {
            return self.error("it ends where a fact was expected, such as `ram`");
        };
        let Some(fact) = FACTS.iter().find(|f| f.name == name) else {
            let near = crate::profile::nearest(name, FACTS.iter().map(|f| f.name));
            let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            return self.error(format!("there is no fact called `{name}`{hint}"));
        };
        self.at += 1;
        let op = match self.peek() {
            Some("=") => Op::Eq,
            Some("!=") => Op::Ne,
            Some("<") => Op::Lt,
            Some("<=") => Op::Le,
            Some(">") => Op::Gt,
            Some(">=") => Op::Ge,
            Some("~") => Op::Like,
            _ => return self.error(format!("after `{}` one of = != < <= > >= ~ must follow", fact.name)),
        };
        self.at += 1;
        let word = self.value(fact)?;
        let ordered = matches!(op, Op::Lt | Op::Le | Op::Gt | Op::Ge);
        let value = match fact.kind {
            _ if op == Op::Like && fact.kind != Kind::Text => {
                return self.error(format!("`~` compares texts, and `{}` is none", fact.name));
            }
            Kind::Size => Value::Size(word.parse().or_else(|e| self.error(e))?),
            Kind::Number => Value::Number(
                word.parse().or_else(|_| self.error(format!("`{word}` is not a whole number")))?,
            ),
            Kind::Text if ordered => {
                return self.error(format!("`{}` is a text; compare it with = != or ~", fact.name));
            }
            Kind::Text
                if op != Op::Like
                    && !fact.one_of.is_empty()
                    && !fact.one_of.iter().any(|v| v.eq_ignore_ascii_case(&word)) =>
            {
                let all = fact.one_of.join(", ");
                return self.error(format!("`{}` is never `{word}`; it is one of {all}", fact.name));
            }
            Kind::Text => Value::Text(word),
        };
        Ok(Expr::Compare { fact, op, value })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Rule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rule".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let facts: Vec<&str> = FACTS.iter().map(|f| f.name).collect();
        schemars::json_schema!({
            "type": "string",
            "description": format!("A rule on the inventory, such as `ram < 2 GiB and firmware = bios`. Facts: {}.", facts.join(", "))
        })
    }
}
