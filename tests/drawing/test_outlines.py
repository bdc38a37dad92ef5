import numpy as np

from keras_cam_callbacks.drawing.outlines import outlined

GREY = np.full((40, 60, 3), 127, np.uint8)


def test_the_edge_of_a_mask_of_any_size_in_white_between_black():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 1:5] = True
    drawn = outlined(GREY, mask)
    assert (drawn[10, 10:50] == 255).all()
    assert (drawn[10:30, 10] == 255).all()
    assert (drawn[9, 10:50] == 0).all()
    assert (drawn[11, 12:48] == 0).all()
    np.testing.assert_array_equal(drawn[14:26, 14:46], 127)
    np.testing.assert_array_equal(drawn[:7], 127)
    assert (GREY == 127).all()


def test_a_hole_has_an_edge_too():
    mask = np.ones((40, 60), bool)
    mask[15:25, 20:40] = False
    drawn = outlined(GREY, mask)
    assert (drawn[12:28, 17:43] == 255).any()


def test_no_mask_and_an_empty_one_leave_the_picture():
    assert outlined(GREY, None) is GREY
    assert outlined(GREY, np.zeros((4, 6), bool)) is GREY
