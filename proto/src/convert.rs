//! Between the generated types and the checked ones.
