/// A first-in first-out queue that never grows: storage is allocated once, a full queue says so.
public struct BoundedQueue<Element: Sendable>: ~Copyable, Sendable {
    private var storage: ContiguousArray<Element?>
    private var head = 0
    public private(set) var count = 0

    public init(capacity: Int) {
        precondition(capacity > 0, "a queue holds something")
        storage = ContiguousArray(repeating: nil, count: capacity)
    }

    public var capacity: Int { storage.count }
    public var isEmpty: Bool { count == 0 }
    public var isFull: Bool { count == storage.count }

    /// The element at the head, without taking it.
    public var first: Element? { isEmpty ? nil : storage[head] }

    /// Whether an element fulfils the condition. O(count).
    public func contains(where condition: (Element) -> Bool) -> Bool {
        for index in 0..<count {
            if let element = storage[(head + index) % storage.count], condition(element) { return true }
        }
        return false
    }

    /// Appends at the tail. O(1).
    ///
    /// - Returns: false when the queue is full; nothing was appended then.
    public mutating func append(_ element: Element) -> Bool {
        guard !isFull else { return false }
        storage[(head + count) % storage.count] = element
        count += 1
        return true
    }

    /// Takes the element at the head. O(1).
    @discardableResult
    public mutating func popFirst() -> Element? {
        guard !isEmpty else { return nil }
        let element = storage[head]
        storage[head] = nil
        head = (head + 1) % storage.count
        count -= 1
        return element
    }

    /// Replaces the element at the head. Nothing happens to an empty queue.
    public mutating func replaceFirst(with element: Element) {
        guard !isEmpty else { return }
        storage[head] = element
    }
}
