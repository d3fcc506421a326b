#include "textflag.h"

// func clone(args *cloneArgs, size uintptr, m *machine) (pid, errno uintptr)
//
// The child may share the parent's memory and stack, which waits meanwhile. So the child must not return from here: it
// would overwrite frames that the parent still needs. Below this frame the stack is its own.
TEXT ·clone(SB), NOSPLIT, $16-40
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD $435, R8 // clone3
	SVC
	CMN  $4095, R0
	BCS  failed
	CBZ  R0, child
	MOVD R0, pid+24(FP)
	MOVD ZR, errno+32(FP)
	RET

failed:
	NEG  R0, R0
	MOVD ZR, pid+24(FP)
	MOVD R0, errno+32(FP)
	RET

child:
	MOVD m+16(FP), R0
	MOVD R0, 8(RSP)
	CALL ·child(SB)
	BRK

// func lastCode() *byte
TEXT ·lastCode(SB), NOSPLIT, $0-8
	MOVD $·last(SB), R0
	MOVD R0, ret+0(FP)
	RET

// last is the program of the last leg. It is copied out of this binary, and must not refer to anything of it. R19 is
// the data, R20 the operation: their layouts are in last.go.
TEXT ·last(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $0x600000, R19
	MOVD 8(RSP), R0      // argv[0]
	MOVD 0(R19), R1
	MOVD R0, 0(R1)
	MOVD 16(RSP), R0     // argv[1], which may be the end of the list
	MOVD 32(R19), R1
	MOVD R0, 0(R1)
	ADD  $64, R19, R20

next:
	MOVD 0(R20), R8
	MOVD 8(R20), R0
	MOVD 16(R20), R1
	MOVD 24(R20), R2
	MOVD 32(R20), R3
	MOVD 40(R20), R4
	MOVD 48(R20), R5
	SVC
	CMN  $4095, R0
	BCS  error
	MOVD 64(R20), R1     // the result goes to two places
	MOVD R0, 0(R1)
	MOVD 72(R20), R1
	MOVD R0, 0(R1)
	MOVD 80(R20), R1     // and may have to be a certain one
	CBZ  R1, done
	CMP  R1, R0
	BNE  exit

done:
	ADD  $96, R20, R20
	B    next

error:
	NEG  R0, R0
	CMP  $4, R0          // EINTR
	BEQ  next
	MOVD 56(R20), R1     // an error that is none
	CMP  R1, R0
	BEQ  done
	MOVD 88(R20), R1     // the message: index<<12 | errno
	LSL  $12, R1, R1
	ORR  R0, R1, R1
	MOVW R1, 12(R19)
	MOVD 16(R19), R0
	ADD  $8, R19, R1
	MOVD $8, R2
	MOVD $0x4000, R3     // MSG_NOSIGNAL
	MOVD ZR, R4
	MOVD ZR, R5
	MOVD $206, R8        // sendto
	SVC

exit:
	MOVD $1, R0
	MOVD $94, R8         // exit_group
	SVC
	B    exit
