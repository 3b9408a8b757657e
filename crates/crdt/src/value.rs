//! The values a register can hold: SQLite's five storage classes, in one canonical form each.

use alloc::{borrow::ToOwned, string::String, vec::Vec};

/// A column's value. The derived order is the order of the canonical bytes (storage class first,
/// then content), which decides between different values at an equal stamp.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// SQL `NULL`.
    Null,
    /// A signed integer; booleans are 0 and 1.
    Integer(i64),
    /// A floating-point number that is not NaN.
    Real(Real),
    /// Text; every type without a storage class of its own travels as its text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// A text value.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A floating-point value; NaN, which SQLite cannot store, becomes the text `NaN`.
    pub fn real(number: f64) -> Self {
        Real::new(number).map_or_else(|| Self::text("NaN"), Self::Real)
    }

    /// How many bytes the content takes in memory, for limits and accounting.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        }
    }
}

/// A floating-point number that is neither NaN nor negative zero, and so equal only to itself.
/// Stored as bits arranged to order as the numbers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Real(u64);

const SIGN: u64 = 1 << 63;

impl Real {
    /// The canonical form of `number`; `None` for NaN. Negative zero becomes zero, since SQLite
    /// does not keep the difference.
    pub fn new(number: f64) -> Option<Self> {
        if number.is_nan() {
            return None;
        }
        let bits = if number == 0.0 { 0 } else { number.to_bits() };
        Some(Self(if bits & SIGN == 0 { bits | SIGN } else { !bits }))
    }

    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(if self.0 & SIGN == 0 {
            !self.0
        } else {
            self.0 & !SIGN
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reals_order_as_numbers_and_come_back_whole() {
        let numbers = [
            f64::NEG_INFINITY,
            -1.5,
            -f64::MIN_POSITIVE,
            0.0,
            1e-300,
            2.0,
            f64::INFINITY,
        ];
        let reals: Vec<Real> = numbers.iter().filter_map(|n| Real::new(*n)).collect();
        assert!(reals.is_sorted());
        let back: Vec<f64> = reals.iter().map(|real| real.get()).collect();
        assert_eq!(back, numbers);
        assert_eq!(Real::new(-0.0), Real::new(0.0));
        assert_eq!(Value::real(f64::NAN), Value::text("NaN"));
    }
}
