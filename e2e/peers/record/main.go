// Command record writes messages as upstream's own types encode them, for the test `wire` of
// nsm-components: of every message each field alone, all fields, each value of each enumeration, and
// what is easily got wrong. Regenerate with
//
//	go run ./record > ../../nsm-components/tests/wire/generated.txt
//
// A line is the full name of the message, the case, and the bytes in hexadecimal digits. Texts are the
// full names of the fields they are in.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/networkservicemesh/api/pkg/api/ipam"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/registry"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// files are all that upstream defines.
var files = []protoreflect.FileDescriptor{
	(&networkservice.Connection{}).ProtoReflect().Descriptor().ParentFile(),
	(&networkservice.ConnectionContext{}).ProtoReflect().Descriptor().ParentFile(),
	(&networkservice.NetworkServiceRequest{}).ProtoReflect().Descriptor().ParentFile(),
	(&registry.NetworkService{}).ProtoReflect().Descriptor().ParentFile(),
	(&ipam.PrefixRequest{}).ProtoReflect().Descriptor().ParentFile(),
}

// A moment whose parts take several bytes each.
var moment = &timestamppb.Timestamp{Seconds: 1_900_000_000, Nanos: 123_456_789}

// recorder writes lines; the first error stays.
type recorder struct {
	out *bufio.Writer
	err error
}

func (r *recorder) line(message protoreflect.Message, what string, more ...byte) {
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(message.Interface())
	if err == nil {
		name := message.Descriptor().FullName()
		_, err = fmt.Fprintf(r.out, "%s %s %s\n", name, what, hex.EncodeToString(append(bytes, more...)))
	}
	if r.err == nil {
		r.err = err
	}
}

// scalar is a value that tells which field it is in.
func scalar(field protoreflect.FieldDescriptor) protoreflect.Value {
	number := uint32(field.Number()) * 1000
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(field.FullName()))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(number)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	default:
		panic(fmt.Sprintf("%s has the kind %s, which no field had", field.FullName(), field.Kind()))
	}
}

// set fills a field; of lists and maps there are two entries.
func set(message protoreflect.Message, field protoreflect.FieldDescriptor) {
	switch {
	case field.IsMap():
		entries, of := message.Mutable(field).Map(), field.MapValue()
		for _, key := range []string{"a", "b"} {
			value := entries.NewValue()
			if of.Kind() == protoreflect.MessageKind {
				fill(value.Message())
			} else {
				value = protoreflect.ValueOfString(string(field.FullName()))
			}
			entries.Set(protoreflect.ValueOfString(key).MapKey(), value)
		}
	case field.IsList():
		list := message.Mutable(field).List()
		for range 2 {
			if field.Kind() == protoreflect.MessageKind {
				fill(list.AppendMutable().Message())
			} else {
				list.Append(scalar(field))
			}
		}
	case field.Kind() == protoreflect.MessageKind:
		fill(message.Mutable(field).Message())
	default:
		message.Set(field, scalar(field))
	}
}

func fill(message protoreflect.Message) {
	if _, ok := message.Interface().(*timestamppb.Timestamp); ok {
		proto.Merge(message.Interface(), moment)
		return
	}
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		set(message, fields.Get(i))
	}
}

// oddities of one field: all values of an enumeration and one that there is not, a negative number,
// a message that is there but empty, a map with an empty value, moments at the edges.
func (r *recorder) oddities(kind protoreflect.MessageType, field protoreflect.FieldDescriptor) {
	one := func(what string, change func(protoreflect.Message)) {
		message := kind.New()
		change(message)
		r.line(message, string(field.Name())+"="+what)
	}
	switch {
	case field.IsMap():
		one("empty-value", func(message protoreflect.Message) {
			entries := message.Mutable(field).Map()
			entries.Set(protoreflect.ValueOfString("a").MapKey(), entries.NewValue())
		})
	case field.IsList():
	case field.Kind() == protoreflect.EnumKind:
		values := field.Enum().Values()
		for i := range values.Len() {
			value := values.Get(i)
			one(string(value.Name()), func(message protoreflect.Message) {
				message.Set(field, protoreflect.ValueOfEnum(value.Number()))
			})
		}
		one("99", func(message protoreflect.Message) { message.Set(field, protoreflect.ValueOfEnum(99)) })
	case field.Kind() == protoreflect.Int32Kind:
		one("-1", func(message protoreflect.Message) { message.Set(field, protoreflect.ValueOfInt32(-1)) })
	case field.Kind() == protoreflect.MessageKind:
		one("there-but-empty", func(message protoreflect.Message) { message.Mutable(field) })
		if field.Message().FullName() != "google.protobuf.Timestamp" {
			return
		}
		one("year-1", func(message protoreflect.Message) {
			first := &timestamppb.Timestamp{Seconds: -62_135_596_800}
			message.Set(field, protoreflect.ValueOfMessage(first.ProtoReflect()))
		})
	}
}

func (r *recorder) message(kind protoreflect.MessageType) {
	r.line(kind.New(), "empty")
	full := kind.New()
	fill(full)
	r.line(full, "full")
	// Fields that a later version may have, before and after those there are.
	later := protowire.AppendVarint(protowire.AppendTag(nil, 9000, protowire.VarintType), 300)
	later = protowire.AppendString(protowire.AppendTag(later, 9001, protowire.BytesType), "later")
	r.line(full, "full-and-unknown", later...)
	fields := kind.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		message := kind.New()
		set(message, field)
		r.line(message, "only-"+string(field.Name()))
		r.oddities(kind, field)
	}
}

// messages of a list and inside of them; entries of maps are none.
func (r *recorder) messages(all protoreflect.MessageDescriptors) {
	for i := range all.Len() {
		descriptor := all.Get(i)
		if descriptor.IsMapEntry() {
			continue
		}
		kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
		if err != nil {
			r.err = err
			return
		}
		r.message(kind)
		r.messages(descriptor.Messages())
	}
}

func main() {
	r := &recorder{out: bufio.NewWriter(os.Stdout)}
	for _, file := range files {
		r.messages(file.Messages())
	}
	if err := r.out.Flush(); r.err == nil {
		r.err = err
	}
	if r.err != nil {
		fmt.Fprintln(os.Stderr, "record:", r.err)
		os.Exit(1)
	}
}
