/// A table whose capacity is set once. Elements may be noncopyable and are changed in place; nothing grows.
@safe struct FixedTable<Element: ~Copyable>: ~Copyable {
    private let storage: UnsafeMutablePointer<Element>
    private let capacity: Int
    private(set) var count = 0

    init(capacity: Int) {
        precondition(capacity > 0, "a table has room")
        self.capacity = capacity
        unsafe storage = .allocate(capacity: capacity)
    }

    deinit {
        // SAFETY: the first `count` elements are initialized.
        unsafe storage.deinitialize(count: count)
        unsafe storage.deallocate()
    }

    mutating func append(_ element: consuming Element) {
        precondition(count < capacity, "a table never grows")
        // SAFETY: the place behind the last element is inside the capacity and not initialized.
        unsafe (storage + count).initialize(to: element)
        count += 1
    }

    subscript(_ index: Int) -> Element {
        @inline(__always) _read {
            precondition(index >= 0 && index < count, "an index is inside its table")
            // SAFETY: the index was just checked.
            yield unsafe storage[index]
        }
        @inline(__always) _modify {
            precondition(index >= 0 && index < count, "an index is inside its table")
            // SAFETY: the index was just checked; the table is held exclusively.
            yield unsafe &storage[index]
        }
    }
}
