//! A set: elements that everybody adds and removes; an addition that a removal has not seen survives
//! it. Each element exists as a row does.

use alloc::{collections::BTreeSet, string::String, vec::Vec};

use crate::{Existence, Stamp, Value, json};

/// An element and whether it is in the set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// The element: a JSON text, spelled as Postgres's `jsonb` does.
    pub text: String,
    /// Whether it is in the set.
    pub existence: Existence,
}

/// The state of a set. The column holds the elements as a JSON array.
///
/// ```
/// use anabranch_crdt::{ElementSet, Hlc, Millis, ReplicaId, Stamp, Value};
///
/// let at = |ms, replica| Hlc::new(Millis(ms), 0).map(|hlc| Stamp::new(hlc, ReplicaId([replica; 16])));
/// let mut held = ElementSet::new();
/// held.merge(&held.write(&Value::text(r#"["red", "blue"]"#), at(1, 1)?));
/// let (ann, bob) = (
///     held.write(&Value::text(r#"["blue", "green"]"#), at(2, 1)?),
///     held.write(&Value::text(r#"["red", "blue", 7]"#), at(2, 2)?),
/// );
/// held.merge(&ann);
/// held.merge(&bob);
/// assert_eq!(held.shown(), &Value::text(r#"["blue", "green", 7]"#));
/// # Ok::<(), anabranch_crdt::HlcError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ElementSet {
    /// In the order of their texts, those removed too.
    elements: Vec<Element>,
    /// What the column holds.
    shown: Value,
}

impl Default for ElementSet {
    fn default() -> Self {
        Self::of([])
    }
}

impl ElementSet {
    /// Nobody has ever added an element.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of these elements.
    pub fn of(elements: impl IntoIterator<Item = Element>) -> Self {
        let mut set = Self {
            elements: Vec::new(),
            shown: Value::Null,
        };
        for element in elements {
            set.join(&element);
        }
        set.refresh();
        set
    }

    /// The elements in their order, those removed too.
    pub fn elements(&self) -> &[Element] {
        &self.elements
    }

    /// What the column holds: the elements that are there, as a JSON array.
    pub const fn shown(&self) -> &Value {
        &self.shown
    }

    /// Whether an element with this text is there.
    pub fn contains(&self, text: &str) -> bool {
        self.find(text)
            .is_some_and(|element| element.existence.is_present())
    }

    /// The delta that says that a transaction stamped `stamp` wrote `value` over this set: what is
    /// new was added, what is missing was removed as far as it was seen.
    pub fn write(&self, value: &Value, stamp: Stamp) -> Self {
        let wanted = elements_of(value);
        let removed = self
            .elements
            .iter()
            .filter(|element| element.existence.is_present() && !wanted.contains(&element.text))
            .map(|element| Element {
                text: element.text.clone(),
                existence: element.existence.removal(),
            });
        let added = wanted
            .iter()
            .filter(|text| !self.contains(text))
            .map(|text| {
                let mut existence = Existence::new();
                existence.add(stamp);
                Element {
                    text: text.clone(),
                    existence,
                }
            });
        Self::of(removed.chain(added))
    }

    /// Joins another set in; whether that changed anything.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for element in &other.elements {
            changed |= self.join(element);
        }
        if changed {
            self.refresh();
        }
        changed
    }

    /// This set with another existence for each element.
    pub fn mapped(&self, existence: impl Fn(&Existence) -> Existence) -> Self {
        Self::of(self.elements.iter().map(|element| Element {
            text: element.text.clone(),
            existence: existence(&element.existence),
        }))
    }

    /// This set without what was added at stamps that are `gone`.
    pub fn without_stamps(&self, gone: impl Fn(Stamp) -> bool) -> Self {
        let kept = self.elements.iter().filter_map(|element| {
            let existence = element.existence.without_stamps(&gone);
            let text = || element.text.clone();
            (!existence.is_empty()).then(|| Element {
                text: text(),
                existence,
            })
        });
        Self::of(kept)
    }

    /// This set without what `refused` put there.
    pub fn without(&self, refused: &Self) -> Self {
        let kept = self.elements.iter().filter_map(|element| {
            let existence = match refused.find(&element.text) {
                Some(refused) => element.existence.without(&refused.existence),
                None => element.existence.clone(),
            };
            let text = || element.text.clone();
            (!existence.is_empty()).then(|| Element {
                text: text(),
                existence,
            })
        });
        Self::of(kept)
    }

    /// The delta that adds the elements that this one adds at another stamp, and removes those that it
    /// removes as far as `held` has them.
    #[must_use]
    pub fn again(&self, held: &Self, stamp: Stamp) -> Self {
        Self::of(self.elements.iter().filter_map(|element| {
            let existence = if element.existence.is_present() {
                let mut existence = Existence::new();
                existence.add(stamp);
                existence
            } else {
                held.find(&element.text)?.existence.removal()
            };
            let text = element.text.clone();
            Some(Element { text, existence })
        }))
    }

    /// The stamps in it.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let entries = self
            .elements
            .iter()
            .flat_map(|element| element.existence.entries());
        entries.map(|entry| entry.stamp)
    }

    fn place(&self, text: &str) -> Result<usize, usize> {
        self.elements
            .binary_search_by(|element| element.text.as_str().cmp(text))
    }

    fn find(&self, text: &str) -> Option<&Element> {
        self.elements.get(self.place(text).ok()?)
    }

    fn join(&mut self, element: &Element) -> bool {
        match self.place(&element.text) {
            Err(place) => {
                self.elements.insert(place, element.clone());
                true
            }
            Ok(place) => self
                .elements
                .get_mut(place)
                .is_some_and(|held| held.existence.merge(&element.existence)),
        }
    }

    fn refresh(&mut self) {
        let present = self
            .elements
            .iter()
            .filter(|element| element.existence.is_present());
        self.shown = Value::Text(json::array(present.map(|element| element.text.as_str())));
    }
}

/// Whether an element's text is spelled as every replica spells it.
pub fn is_spelled(text: &str) -> bool {
    json::canonical(text).is_some_and(|spelled| spelled == text)
}

/// The elements that a column's value stands for. What is no array is one element, whatever it is,
/// so that nothing anybody writes is lost.
pub fn elements_of(value: &Value) -> BTreeSet<String> {
    let one = match value {
        Value::Null => return BTreeSet::new(),
        Value::Text(text) => match json::elements(text) {
            Some(elements) => return elements.into_iter().collect(),
            None => json::canonical(text).unwrap_or_else(|| json::quoted(text)),
        },
        Value::Integer(number) => alloc::format!("{number}"),
        Value::Real(real) => {
            let text = alloc::format!("{}", real.get());
            json::canonical(&text).unwrap_or_else(|| json::quoted(&text))
        }
        Value::Blob(bytes) => {
            let digits = bytes.iter().map(|byte| alloc::format!("{byte:02x}"));
            json::quoted(&digits.collect::<String>())
        }
    };
    BTreeSet::from([one])
}
